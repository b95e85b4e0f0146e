"""Runs a program: one thread for an execution, one more for each branch of a parallel step.

An execution's place is a chain of frames (routine calls); within one, steps run in order
and hand back where to go: on (None), a jump, out of a loop, or out of the routine.
Cancellation is looked at before each step and ends every pause at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from localcloud.workflows import limits
from localcloud.workflows.backoff import Backoff, backoff
from localcloud.workflows.branches import Branch, run_together
from localcloud.workflows.errors import Cancelled, Place, WorkflowError, failure
from localcloud.workflows.evaluate import checked_number, evaluate
from localcloud.workflows.expressions import Attribute, Call, Index, Name, Node
from localcloud.workflows.library import FUNCTIONS, OBJECTS, Host
from localcloud.workflows.program import (
    Assign,
    Assignment,
    CallStep,
    Constant,
    Expression,
    For,
    Group,
    ListTemplate,
    MapTemplate,
    Parallel,
    Program,
    Raise,
    RetryPolicy,
    Return,
    Routine,
    Step,
    StepList,
    Switch,
    Template,
    Try,
)
from localcloud.workflows.scope import Ledger, Scope
from localcloud.workflows.values import FunctionReference, Value, copy, is_number, type_name


class Observer(Protocol):
    """Is told what an execution does; must be safe to call from several threads."""

    def entered(self, routine: str, step: Step, branch: int) -> int:
        """Take note that a step begins; returns the number of its entry."""
        ...

    def left(self, entry: int, branch: int, error: WorkflowError | None) -> None:
        """Take note that the step of `entry` ended."""
        ...

    def called(self, routine: str, step: Step, function: str, arguments: Value) -> None:
        """Take note of a call about to be made."""
        ...

    def answered(self, routine: str, step: Step, function: str, answer: Value) -> None:
        """Take note of what a call returned, or of the WorkflowError it raised."""
        ...


@dataclass(frozen=True)
class _Jump:
    target: str


@dataclass(frozen=True)
class _Returned:
    value: Value


_Outcome = _Jump | _Returned | None
_END = _Returned(None)
_BREAK = _Jump("break")
_CONTINUE = _Jump("continue")


@dataclass(frozen=True)
class _Frame:
    routine: str
    depth: int
    branch: int
    parallel_depth: int


@dataclass
class Interpreter:
    """One run of `program`; `cancelled` stops it before its next step."""

    program: Program
    host: Host
    observer: Observer
    cancelled: threading.Event
    _ledger: Ledger = field(default_factory=Ledger)
    # Held while variables are read or written: assignments of parallel branches are atomic.
    _variables: threading.RLock = field(default_factory=threading.RLock)
    _counters: threading.Lock = field(default_factory=threading.Lock)
    _steps: int = 0
    _branch_number: int = 0

    def run(self, argument: Value) -> Value:
        """Return what `main` returns; WorkflowError when it fails, Cancelled when cancelled."""
        main = self.program.main
        arguments = {main.parameters[0]: argument} if main.parameters else {}
        return self._routine(main, arguments, _Frame(main.name, 1, 0, 0))

    def _routine(self, routine: Routine, arguments: Mapping[str, Value], frame: _Frame) -> Value:
        if frame.depth > limits.CALL_DEPTH:
            raise failure("RecursionError", f"calls nest more than {limits.CALL_DEPTH} deep")
        scope = Scope(self._ledger)
        try:
            for name in routine.parameters:
                given = arguments[name] if name in arguments else routine.defaults[name]
                scope.declare(name, copy(given))
            outcome = self._run(routine.body, scope, frame)
        finally:
            scope.close()
        return outcome.value if isinstance(outcome, _Returned) else None

    def _run(self, steps: StepList, scope: Scope, frame: _Frame) -> _Outcome:
        at = 0
        while at < len(steps.steps):
            outcome = self._step(steps.steps[at], scope, frame)
            if outcome is None:
                at += 1
            elif isinstance(outcome, _Jump) and outcome.target in steps.position:
                at = steps.position[outcome.target]
            else:
                return outcome
        return None

    def _step(self, step: Step, scope: Scope, frame: _Frame) -> _Outcome:
        self._count()
        entry = self.observer.entered(frame.routine, step, frame.branch)
        error: WorkflowError | None = None
        try:
            outcome = self._act(step, scope, frame)
        except WorkflowError as wrong:
            error = wrong
            wrong.passes(Place(step.name, frame.routine, step.line, step.column), frame.depth)
            raise
        finally:
            self.observer.left(entry, frame.branch, error)
        return outcome if outcome is not None else _next(step)

    def _count(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled
        with self._counters:
            self._steps += 1
            if self._steps > limits.STEPS:
                raise failure("ResourceLimitError", f"over {limits.STEPS} steps in one execution")

    def _act(self, step: Step, scope: Scope, frame: _Frame) -> _Outcome:
        match step.action:
            case None:
                return None
            case Assign(assignments):
                for assignment in assignments:
                    self._assign(assignment, scope, frame)
                return None
            case CallStep() as call:
                self._call_step(step, call, scope, frame)
                return None
            case Switch(cases):
                for case in cases:
                    if self._condition(case.condition, scope, frame):
                        outcome = self._act(case.step, scope, frame)
                        return outcome if outcome is not None else _next(case.step)
                return None
            case For() as loop:
                return self._loop(loop, scope, frame)
            case Parallel() as parallel:
                self._parallel(parallel, scope, frame)
                return None
            case Raise(value):
                raise WorkflowError(self._raisable(self._value(value, scope, frame)))
            case Return(value):
                return _Returned(self._value(value, scope, frame))
            case Try() as attempt:
                return self._try(attempt, scope, frame)
            case Group(body):
                return self._run(body, scope, frame)

    def _assign(self, assignment: Assignment, scope: Scope, frame: _Frame) -> None:
        if self._calls_subworkflow(assignment.value) or self._node_calls(assignment.target):
            # A subworkflow may take its time, and may itself have branches that assign.
            value = self._value(assignment.value, scope, frame)
            path = self._path(assignment.target, scope, frame)
            with self._variables:
                _store(assignment.target, path, value, scope)
            return
        with self._variables:
            value = self._value(assignment.value, scope, frame)
            path = self._path(assignment.target, scope, frame)
            _store(assignment.target, path, value, scope)

    def _path(self, target: Node, scope: Scope, frame: _Frame) -> list[Value]:
        """Return the keys that lead from the target's variable to its place."""
        match target:
            case Attribute(inner, name):
                return [*self._path(inner, scope, frame), name]
            case Index(inner, key):
                return [*self._path(inner, scope, frame), self._evaluate(key, scope, frame)]
            case _:
                return []

    def _call_step(self, step: Step, call: CallStep, scope: Scope, frame: _Frame) -> None:
        positional = [self._value(item, scope, frame) for item in call.positional]
        named = {name: self._value(item, scope, frame) for name, item in call.named.items()}
        self.observer.called(frame.routine, step, call.function, named or positional)
        try:
            answer = self._invoke(call.function, positional, named, frame)
        except WorkflowError as wrong:
            self.observer.answered(frame.routine, step, call.function, wrong)
            raise
        self.observer.answered(frame.routine, step, call.function, answer)
        if call.result is not None:
            with self._variables:
                scope.set(call.result, copy(answer))

    def _invoke(
        self,
        function: str,
        positional: Sequence[Value],
        named: Mapping[str, Value],
        frame: _Frame,
    ) -> Value:
        if function in FUNCTIONS:
            return FUNCTIONS[function].call(self.host, positional, named)
        routine = self.program.routines[function]
        complaint = routine.complaint(len(positional), tuple(named))
        if complaint:
            raise failure("TypeError", complaint)
        arguments = {**dict(zip(routine.parameters, positional, strict=False)), **named}
        inner = _Frame(routine.name, frame.depth + 1, frame.branch, frame.parallel_depth)
        return self._routine(routine, arguments, inner)

    def _condition(self, condition: Template, scope: Scope, frame: _Frame) -> bool:
        value = self._value(condition, scope, frame)
        if not isinstance(value, bool):
            raise failure("TypeError", f"a condition must be boolean, not {type_name(value)}")
        return value

    def _loop(self, loop: For, scope: Scope, frame: _Frame) -> _Outcome:
        for index, value in enumerate(self._iterations(loop, scope, frame)):
            outcome = self._iteration(loop, index, value, scope, frame)
            if outcome == _BREAK:
                return None
            if outcome is not None and outcome != _CONTINUE:
                return outcome
        return None

    def _iteration(
        self, loop: For, index: int, value: Value, scope: Scope, frame: _Frame
    ) -> _Outcome:
        inner = scope.inner()
        try:
            with self._variables:
                inner.declare(loop.value, value)
                if loop.index is not None:
                    inner.declare(loop.index, index)
            return self._run(loop.body, inner, frame)
        finally:
            inner.close()

    def _iterations(self, loop: For, scope: Scope, frame: _Frame) -> Sequence[Value]:
        if loop.items is not None:
            items = self._value(loop.items, scope, frame)
            if not isinstance(items, list):
                raise failure("TypeError", f"for goes over a list, not {type_name(items)}")
            return items
        assert loop.range is not None
        bounds = self._value(loop.range, scope, frame)
        if not isinstance(bounds, list) or len(bounds) != 2 or not all(map(is_number, bounds)):
            raise failure("TypeError", "range is a list of two numbers")
        first, last = bounds
        count = max(0, int(last - first) + 1) if last >= first else 0
        if count > limits.STEPS:
            raise failure("ResourceLimitError", f"a loop of {count} iterations")
        return [checked_number(first + offset) for offset in range(count)]

    def _try(self, attempt: Try, scope: Scope, frame: _Frame) -> _Outcome:
        delays: Iterator[float] | None = None
        while True:
            try:
                return self._run(attempt.body, scope, frame)
            except WorkflowError as wrong:
                error = wrong
            try:
                policy = self._policy(attempt, scope, frame)
                delays = delays if delays is not None else iter(policy or ())
                if policy is None or not self._retriable(policy, error, frame):
                    break
                delay = next(delays, None)
                if delay is None:
                    break
                self.host.pause(delay)
            except WorkflowError as wrong:
                # A policy or predicate that fails itself ends the retries.
                error = wrong
                break
        if attempt.handler is None:
            raise error
        if attempt.handler.body is None:
            return None
        inner = scope.inner()
        try:
            with self._variables:
                inner.declare(attempt.handler.error, copy(error.value))
            return self._run(attempt.handler.body, inner, frame)
        finally:
            inner.close()

    def _policy(self, attempt: Try, scope: Scope, frame: _Frame) -> Backoff | None:
        match attempt.retry:
            case None:
                return None
            case RetryPolicy() as written:
                return backoff(
                    self._value(written.predicate, scope, frame),
                    self._value(written.max_retries, scope, frame),
                    self._value(written.backoff, scope, frame),
                )
            case Expression() as ready:
                policy = self._value(ready, scope, frame)
                if not isinstance(policy, dict) or "predicate" not in policy:
                    raise failure("TypeError", f"retry is a policy, not {type_name(policy)}")
                return backoff(policy["predicate"], policy["max_retries"], policy["backoff"])

    def _retriable(self, policy: Backoff, error: WorkflowError, frame: _Frame) -> bool:
        verdict = self._invoke(policy.predicate.name, [copy(error.value)], {}, frame)
        if not isinstance(verdict, bool):
            raise failure("TypeError", f"a predicate returns a boolean, not {type_name(verdict)}")
        return verdict

    def _parallel(self, parallel: Parallel, scope: Scope, frame: _Frame) -> None:
        depth = frame.parallel_depth + 1
        if depth > limits.PARALLEL_DEPTH:
            raise failure(
                "ParallelNestingError", f"parallel steps nest over {limits.PARALLEL_DEPTH} deep"
            )
        limit = limits.CONCURRENT_BRANCHES
        if parallel.concurrency_limit is not None:
            asked = self._value(parallel.concurrency_limit, scope, frame)
            if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
                raise failure("TypeError", "concurrency_limit is a positive integer")
            limit = min(limit, asked)
        run_together(list(self._branches(parallel, scope, frame, depth)), limit)

    def _branches(
        self, parallel: Parallel, scope: Scope, frame: _Frame, depth: int
    ) -> Iterator[Branch]:
        def inner() -> _Frame:
            return _Frame(frame.routine, frame.depth, self._new_branch(), depth)

        loop = parallel.loop
        if loop is not None:
            for index, value in enumerate(self._iterations(loop, scope, frame)):
                yield Branch(
                    str(index), partial(self._iteration, loop, index, value, scope, inner())
                )
        for name, body in parallel.branches:
            yield Branch(name, partial(self._branch, body, scope, inner()))

    def _branch(self, body: StepList, scope: Scope, frame: _Frame) -> None:
        own = scope.inner()
        try:
            self._run(body, own, frame)
        finally:
            own.close()

    def _new_branch(self) -> int:
        with self._counters:
            self._branch_number += 1
            return self._branch_number

    def _raisable(self, value: Value) -> Value:
        if not isinstance(value, str | dict):
            raise failure("TypeError", f"a string or map can be raised, not {type_name(value)}")
        return value

    def _value(self, template: Template, scope: Scope, frame: _Frame) -> Value:
        """Return the value of a template, independent of every variable."""
        match template:
            case Constant(value):
                return copy(value)
            case Expression(node):
                return self._evaluate(node, scope, frame)
            case ListTemplate(items):
                return [self._value(item, scope, frame) for item in items]
            case MapTemplate(entries):
                return {
                    self._key(key, scope, frame): self._value(item, scope, frame)
                    for key, item in entries
                }

    def _key(self, template: Template, scope: Scope, frame: _Frame) -> str:
        key = self._value(template, scope, frame)
        if not isinstance(key, str):
            raise failure("TypeError", f"a map's key is a string, not {type_name(key)}")
        return key

    def _evaluate(self, node: Node, scope: Scope, frame: _Frame) -> Value:
        names = _Names(self, scope, frame)
        if self._node_calls(node):
            return copy(evaluate(node, names))
        with self._variables:
            return copy(evaluate(node, names))

    def _calls_subworkflow(self, template: Template) -> bool:
        match template:
            case Expression(node):
                return self._node_calls(node)
            case ListTemplate(items):
                return any(map(self._calls_subworkflow, items))
            case MapTemplate(entries):
                return any(self._calls_subworkflow(item) for entry in entries for item in entry)
            case _:
                return False

    def _node_calls(self, node: Node) -> bool:
        if isinstance(node, Call) and node.function in self.program.routines:
            return True
        return any(map(self._node_calls, _children(node)))


@dataclass(frozen=True)
class _Names:
    """The names of an expression: variables, the library's objects, functions, subworkflows."""

    interpreter: Interpreter
    scope: Scope
    frame: _Frame

    def defines(self, name: str) -> bool:
        return self.scope.defines(name)

    def variable(self, name: str) -> Value:
        if name in self.interpreter.program.routines and not self.scope.defines(name):
            return FunctionReference(name)
        return self.scope.get(name)

    def constant(self, dotted: str) -> Value:
        if dotted in OBJECTS:
            return OBJECTS[dotted]
        if dotted in FUNCTIONS:
            return FunctionReference(dotted)
        return self.scope.get(dotted.partition(".")[0])

    def call(self, function: str, arguments: Sequence[Value]) -> Value:
        return self.interpreter._invoke(function, arguments, {}, self.frame)


def _next(step: Step) -> _Outcome:
    if step.next is None:
        return None
    return _END if step.next == "end" else _Jump(step.next)


def _store(target: Node, path: list[Value], value: Value, scope: Scope) -> None:
    while isinstance(target, Attribute | Index):
        target = target.target
    assert isinstance(target, Name)
    if path:
        scope.put(target.name, path, value)
    else:
        scope.set(target.name, value)


def _children(node: Node) -> Iterator[Node]:
    for value in vars(node).values():
        if isinstance(value, tuple):
            yield from value
        elif hasattr(value, "__dataclass_fields__"):
            yield value
