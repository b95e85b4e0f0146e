"""What can be known of a program before it runs: names, jumps, functions, arguments.

Variables: a routine's, and those of each loop, except block and branch around a place,
are visible there. Assigning in a branch to a variable from outside needs `shared`.
Jumps: to a step of the same list or of one around it, never into a list, never out of a
loop's body or a branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from localcloud.workflows import limits
from localcloud.workflows.errors import SourceError
from localcloud.workflows.expressions import (
    Attribute,
    Binary,
    Call,
    Index,
    ListLiteral,
    Literal,
    Name,
    Node,
    Unary,
)
from localcloud.workflows.library import (
    FUNCTIONS,
    OBJECTS,
    PREDICATES,
    UNSUPPORTED,
    UNSUPPORTED_ARGUMENTS,
)
from localcloud.workflows.library.http import AUTH_ATTRIBUTES, AUTH_TYPES
from localcloud.workflows.program import (
    Assign,
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


def check(program: Program) -> None:
    """Raise SourceError for the first thing in `program` that could never run."""
    for routine in program.routines.values():
        if routine.name in FUNCTIONS:
            raise SourceError(f"{routine.name!r} is a function of the library", line=routine.line)
        _unique_names(routine)
        scope = _Scope(None, set(routine.parameters) | set(_assigned(routine.body)))
        _Checker(program).steps(routine.body, scope, _Place(routine.name))


def _unique_names(routine: Routine) -> None:
    seen: set[str] = set()
    for step in _all_steps(routine.body):
        if step.name in seen:
            raise SourceError(
                f'workflow "{routine.name}" has two steps of this name',
                step=step.name,
                line=step.line,
            )
        seen.add(step.name)


def _all_steps(steps: StepList) -> Iterator[Step]:
    for step in steps.steps:
        yield step
        for body, unnamed in _bodies(step):
            # What a switch or a try holds without a name goes by the name of its step.
            inner = _all_steps(body)
            yield from (found for found in inner if not (unnamed and found.name == step.name))


def _bodies(step: Step) -> Iterator[tuple[StepList, bool]]:
    match step.action:
        case Group(body) | For(body=body):
            yield body, False
        case Switch(cases):
            yield from ((StepList((case.step,)), True) for case in cases)
        case Try(body, _, handler):
            yield body, True
            if handler and handler.body:
                yield handler.body, False
        case Parallel(branches=branches, loop=loop):
            yield from ((body, False) for _, body in branches)
            if loop:
                yield loop.body, False


def _assigned(steps: StepList) -> Iterator[str]:
    """Yield the variables that these steps create in their own scope."""
    for step in steps.steps:
        match step.action:
            case Assign(assignments):
                yield from (_root(entry.target) for entry in assignments)
            case CallStep(result=str(result)):
                yield result
            case Group(body) | Try(body=body):
                yield from _assigned(body)
            case Switch(cases):
                yield from _assigned(StepList(tuple(case.step for case in cases)))


def _root(node: Node) -> str:
    while isinstance(node, Attribute | Index):
        node = node.target
    assert isinstance(node, Name)
    return node.name


@dataclass(frozen=True)
class _Scope:
    parent: _Scope | None
    names: set[str]
    shared: tuple[str, ...] | None = None  # of a branch; None: not a branch's scope

    def sees(self, name: str) -> bool:
        return name in self.names or (self.parent is not None and self.parent.sees(name))

    def unshared(self, name: str) -> bool:
        """Return whether assigning `name` here would write past a branch that does not share it."""
        if self.parent is None or not self.parent.sees(name):
            return False
        blocked = self.shared is not None and name not in self.shared
        return blocked or self.parent.unshared(name)


@dataclass(frozen=True)
class _Place:
    routine: str
    targets: frozenset[str] = field(default_factory=frozenset)
    in_loop: bool = False
    may_break: bool = False
    parallel_depth: int = 0


class _Checker:
    def __init__(self, program: Program) -> None:
        self._program = program

    def steps(self, steps: StepList, scope: _Scope, place: _Place) -> None:
        inside = _Place(
            place.routine,
            place.targets | set(steps.position),
            place.in_loop,
            place.may_break,
            place.parallel_depth,
        )
        for step in steps.steps:
            self._step(step, scope, inside)

    def _step(self, step: Step, scope: _Scope, place: _Place) -> None:
        self._jump(step, place)
        match step.action:
            case Assign(assignments):
                for entry in assignments:
                    self._template(entry.value, scope, step)
                    self._node(entry.target, scope, step, entry.line)
                    self._writable(_root(entry.target), scope, step)
            case CallStep():
                self._call(step, step.action, scope)
            case Switch(cases):
                for case in cases:
                    self._template(case.condition, scope, step)
                    self._step(case.step, scope, place)
            case For():
                self._loop(step, step.action, scope, place)
            case Parallel():
                self._parallel(step, step.action, scope, place)
            case Raise(value):
                self._template(value, scope, step)
            case Return(value):
                if place.parallel_depth:
                    raise SourceError(
                        "return inside a parallel step is not supported",
                        step=step.name,
                        line=step.line,
                    )
                self._template(value, scope, step)
            case Try():
                self._try(step, step.action, scope, place)
            case Group(body):
                self.steps(body, scope, place)

    def _jump(self, step: Step, place: _Place) -> None:
        target = step.next
        if target is None or target in place.targets:
            return
        if target == "end" and not place.parallel_depth:
            return
        if (target == "break" and place.may_break) or (target == "continue" and place.in_loop):
            return
        reason = {
            "end": "end inside a parallel step is not supported",
            "break": "there is no loop here to break",
            "continue": "there is no loop here to continue",
        }.get(target, f'there is no step "{target}" that can be reached from here')
        raise SourceError(f"next: {reason}", step=step.name, line=step.line)

    def _loop(self, step: Step, loop: For, scope: _Scope, place: _Place) -> None:
        for template in (loop.items, loop.range):
            if template is not None:
                self._template(template, scope, step)
        own = {loop.value} | ({loop.index} if loop.index else set())
        for name in own:
            if scope.sees(name):
                raise SourceError(
                    f"the loop's variable {name!r} is already a variable outside of it",
                    step=step.name,
                    line=step.line,
                )
        body = _Scope(scope, own | set(_assigned(loop.body)))
        self.steps(
            loop.body,
            body,
            _Place(
                place.routine, in_loop=True, may_break=True, parallel_depth=place.parallel_depth
            ),
        )

    def _parallel(self, step: Step, parallel: Parallel, scope: _Scope, place: _Place) -> None:
        depth = place.parallel_depth + 1
        if depth > limits.PARALLEL_DEPTH:
            raise SourceError(
                f"parallel steps nest at most {limits.PARALLEL_DEPTH} deep",
                step=step.name,
                line=step.line,
            )
        for name in parallel.shared:
            if not scope.sees(name):
                raise SourceError(
                    f"shared variable {name!r} is not defined", step=step.name, line=step.line
                )
            self._writable(name, scope, step)
        if parallel.concurrency_limit is not None:
            self._template(parallel.concurrency_limit, scope, step)
        for _, body in parallel.branches:
            branch = _Scope(scope, set(_assigned(body)), parallel.shared)
            self.steps(body, branch, _Place(place.routine, parallel_depth=depth))
        loop = parallel.loop
        if loop is not None:
            for template in (loop.items, loop.range):
                if template is not None:
                    self._template(template, scope, step)
            own = {loop.value} | ({loop.index} if loop.index else set())
            body_scope = _Scope(
                _Scope(scope, set(), parallel.shared), own | set(_assigned(loop.body))
            )
            self.steps(
                loop.body, body_scope, _Place(place.routine, in_loop=True, parallel_depth=depth)
            )

    def _try(self, step: Step, action: Try, scope: _Scope, place: _Place) -> None:
        self.steps(action.body, scope, place)
        if isinstance(action.retry, Expression):
            self._node(action.retry.node, scope, step, action.retry.line)
        elif isinstance(action.retry, RetryPolicy):
            self._retry(action.retry, scope, step)
        if action.handler and action.handler.body:
            names = {action.handler.error} | set(_assigned(action.handler.body))
            self.steps(action.handler.body, _Scope(scope, names), place)

    def _retry(self, policy: RetryPolicy, scope: _Scope, step: Step) -> None:
        for template in (policy.max_retries, policy.backoff):
            self._template(template, scope, step)
        predicate = policy.predicate
        assert isinstance(predicate, Expression)
        name = _dotted(predicate.node)
        routine = self._program.routines.get(name or "")
        if routine is not None:
            if len(routine.parameters) - len(routine.defaults) > 1 or not routine.parameters:
                raise SourceError(
                    f"predicate {name!r} must take one argument, the error",
                    step=step.name,
                    line=predicate.line,
                )
        elif name not in PREDICATES:
            raise SourceError(
                f"predicate {name or 'given'!r} is neither a subworkflow nor one of "
                + ", ".join(PREDICATES),
                step=step.name,
                line=predicate.line,
            )

    def _call(self, step: Step, call: CallStep, scope: _Scope) -> None:
        for template in (*call.positional, *call.named.values()):
            self._template(template, scope, step)
        self._known(call.function, step, step.line)
        target = FUNCTIONS.get(call.function) or self._program.routines[call.function]
        for name in UNSUPPORTED_ARGUMENTS:
            if name in call.named and call.function.startswith("http."):
                raise SourceError(
                    f"{call.function}: {name} is not supported by the local Workflows",
                    step=step.name,
                    line=step.line,
                )
        complaint = target.complaint(len(call.positional), tuple(call.named))
        if complaint:
            raise SourceError(complaint, step=step.name, line=step.line)
        if call.function.startswith("http."):
            self._auth(call.named.get("auth"), step)
        if call.result is not None:
            self._writable(call.result, scope, step)

    def _auth(self, auth: Template | None, step: Step) -> None:
        attributes: dict[str, object] = {}
        if isinstance(auth, MapTemplate):
            attributes = {
                key.value: value.value if isinstance(value, Constant) else None
                for key, value in auth.items
                if isinstance(key, Constant)
            }
        elif isinstance(auth, Constant) and isinstance(auth.value, dict):
            attributes = auth.value
        for name in attributes:
            if name not in AUTH_ATTRIBUTES:
                raise SourceError(f"auth has no attribute {name!r}", step=step.name, line=step.line)
        kind = attributes.get("type")
        if kind is not None and kind not in AUTH_TYPES:
            raise SourceError(
                f"auth.type {kind!r} is not one of {', '.join(AUTH_TYPES)}",
                step=step.name,
                line=step.line,
            )

    def _known(self, function: str, step: Step, line: int) -> None:
        if function in FUNCTIONS or function in self._program.routines:
            return
        for prefix, reason in UNSUPPORTED.items():
            if function.startswith(prefix):
                raise SourceError(f"{function}: {reason}", step=step.name, line=line)
        raise SourceError(f"unknown function {function!r}", step=step.name, line=line)

    def _writable(self, name: str, scope: _Scope, step: Step) -> None:
        if scope.unshared(name):
            raise SourceError(
                f"variable {name!r} belongs to outside of the parallel step and is not shared",
                step=step.name,
                line=step.line,
            )

    def _template(self, template: Template, scope: _Scope, step: Step) -> None:
        match template:
            case Expression(node, line):
                self._node(node, scope, step, line)
            case ListTemplate(items):
                for item in items:
                    self._template(item, scope, step)
            case MapTemplate(entries):
                for key, value in entries:
                    self._template(key, scope, step)
                    self._template(value, scope, step)

    def _node(self, node: Node, scope: _Scope, step: Step, line: int) -> None:
        match node:
            case Name(name):
                if not scope.sees(name):
                    raise SourceError(
                        f"variable {name!r} is not defined", step=step.name, line=line
                    )
            case Attribute(target, name):
                module = target.name if isinstance(target, Name) else ""
                if scope.sees(module) or f"{module}.{name}" not in OBJECTS:
                    self._node(target, scope, step, line)
            case Index(target, key):
                self._node(target, scope, step, line)
                self._node(key, scope, step, line)
            case ListLiteral(items):
                for item in items:
                    self._node(item, scope, step, line)
            case Unary(_, operand):
                self._node(operand, scope, step, line)
            case Binary(_, left, right):
                self._node(left, scope, step, line)
                self._node(right, scope, step, line)
            case Call(function, arguments):
                self._expression_call(function, len(arguments), step, line)
                for argument in arguments:
                    self._node(argument, scope, step, line)
            case Literal():
                pass

    def _expression_call(self, function: str, count: int, step: Step, line: int) -> None:
        self._known(function, step, line)
        target = FUNCTIONS.get(function)
        if target is not None and target.blocking:
            raise SourceError(
                f"{function} blocks and cannot be in an expression; use a call step",
                step=step.name,
                line=line,
            )
        complaint = (target or self._program.routines[function]).complaint(count, ())
        if complaint:
            raise SourceError(complaint, step=step.name, line=line)


def _dotted(node: Node) -> str | None:
    parts: list[str] = []
    while isinstance(node, Attribute):
        parts.append(node.name)
        node = node.target
    return ".".join([node.name, *reversed(parts)]) if isinstance(node, Name) else None
