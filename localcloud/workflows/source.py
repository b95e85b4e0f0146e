"""Loads a workflow's source: YAML or JSON to a Program, refusing what cannot be deployed.

Every error names the step and the line. A keyword, argument or function that the
documented language does not have is an error, as is one that this interpreter lacks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from localcloud.workflows import limits
from localcloud.workflows.backoff import BACKOFF_ATTRIBUTES
from localcloud.workflows.checks import check
from localcloud.workflows.errors import SourceError
from localcloud.workflows.expressions import Literal, Node, ParseError, parse, parse_target
from localcloud.workflows.program import (
    MAIN,
    Action,
    Assign,
    Assignment,
    CallStep,
    Case,
    Constant,
    Expression,
    For,
    Group,
    Handler,
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
from localcloud.workflows.values import Value
from localcloud.workflows.yaml_nodes import Marked, read

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STEP_NAME = re.compile(r"[A-Za-z0-9_]+")
_RESERVED = ("end", "break", "continue")
_ACTIONS = ("assign", "call", "switch", "for", "parallel", "raise", "try", "return", "steps")
_COMPANIONS: dict[str, tuple[str, ...]] = {"call": ("args", "result"), "try": ("retry", "except")}
_WITHOUT_NEXT = ("raise", "return")


def load(source: str) -> Program:
    """Return the program of a source; SourceError names what is wrong, the step and the line."""
    if len(source.encode()) > limits.SOURCE_BYTES:
        raise SourceError(f"the source is over {limits.SOURCE_BYTES} bytes")
    document = read(source)
    if document.is_list:
        document = Marked({MAIN: Marked({"steps": document}, 1, 1)}, 1, 1)
    if not document.is_map or MAIN not in document.value:
        raise SourceError(
            'a source is a list of steps or has a "main" workflow', line=document.line
        )
    routines = {name: _routine(name, body) for name, body in document.value.items()}
    program = Program(routines)
    check(program)
    return program


def _routine(name: str, body: Marked) -> Routine:
    if not _NAME.fullmatch(name):
        raise SourceError(f"{name!r} cannot name a workflow", line=body.line)
    fields = _map(body, f'workflow "{name}"', None)
    _only(fields, ("params", "steps"), f'workflow "{name}"', None)
    if "steps" not in fields:
        raise SourceError(f'workflow "{name}" has no steps', line=body.line)
    parameters, defaults = _parameters(name, fields.get("params"))
    return Routine(name, parameters, defaults, _Loader(name).steps(fields["steps"]), body.line)


def _parameters(name: str, params: Marked | None) -> tuple[tuple[str, ...], dict[str, Value]]:
    if params is None:
        return (), {}
    if not params.is_list:
        raise SourceError(f'params of "{name}" is a list of names', line=params.line)
    parameters: list[str] = []
    defaults: dict[str, Value] = {}
    for entry in params.value:
        parameter = entry.value
        if entry.is_map and len(entry.value) == 1:
            ((parameter, default),) = entry.value.items()
            template = _Loader(name).template(default, None)
            if not isinstance(template, Constant):
                raise SourceError(
                    f"the default of {parameter!r} is not a constant", line=entry.line
                )
            defaults[parameter] = template.value
        elif defaults:
            raise SourceError(f"{parameter!r} follows parameters with defaults", line=entry.line)
        if not isinstance(parameter, str) or not _NAME.fullmatch(parameter):
            raise SourceError(f"{parameter!r} is not a parameter's name", line=entry.line)
        if parameter in parameters:
            raise SourceError(f"parameter {parameter!r} is repeated", line=entry.line)
        parameters.append(parameter)
    if name == MAIN and (len(parameters) > 1 or defaults):
        raise SourceError("main takes one parameter, without a default", line=params.line)
    return tuple(parameters), defaults


class _Loader:
    """Loads the steps of one routine."""

    def __init__(self, routine: str) -> None:
        self._routine = routine

    def steps(self, node: Marked, step: str | None = None) -> StepList:
        if not node.is_list or not node.value:
            raise SourceError("steps is a list of at least one step", step=step, line=node.line)
        return StepList(tuple(self._step(entry, step) for entry in node.value))

    def _step(self, entry: Marked, parent: str | None) -> Step:
        if not entry.is_map or len(entry.value) != 1:
            raise SourceError(
                "a step is a map of one name to what it does", step=parent, line=entry.line
            )
        ((name, body),) = entry.value.items()
        if not _STEP_NAME.fullmatch(name) or name in _RESERVED:
            raise SourceError(f"{name!r} cannot name a step", step=parent, line=entry.line)
        return self._body(name, body, entry)

    def _body(
        self, name: str, body: Marked, at: Marked, more: tuple[str, ...] = (), inline: bool = False
    ) -> Step:
        """Load what step `name` does; `more` keys belong to who contains it (a switch)."""
        fields = _map(body, f'step "{name}"', name)
        actions = [key for key in fields if key in _ACTIONS]
        if len(actions) > 1:
            raise SourceError(
                f"a step does one thing, not {' and '.join(actions)}", step=name, line=body.line
            )
        action = actions[0] if actions else None
        allowed = (action, *_COMPANIONS.get(action, ()), *more) if action else more
        takes_next = action not in _WITHOUT_NEXT
        _only(fields, (*allowed, *(("next",) if takes_next else ())), "a step", name)
        if action is None and "next" not in fields and not inline:
            raise SourceError("the step does nothing", step=name, line=body.line)
        target = fields.get("next")
        if target is not None and not isinstance(target.value, str):
            raise SourceError("next is the name of a step", step=name, line=target.line)
        return Step(
            name,
            self._action(name, action, fields) if action else None,
            target.value if target else None,
            at.line,
            at.column,
        )

    def _action(self, step: str, action: str, fields: Mapping[str, Marked]) -> Action:
        node = fields[action]
        match action:
            case "assign":
                return self._assign(step, node)
            case "call":
                return self._call(step, node, fields)
            case "switch":
                return self._switch(step, node)
            case "for":
                return self._for(step, node)
            case "parallel":
                return self._parallel(step, node)
            case "raise":
                return Raise(self.template(node, step))
            case "return":
                return Return(self.template(node, step))
            case "try":
                return self._try(step, node, fields)
            case _:
                return Group(self.steps(node, step))

    def _assign(self, step: str, node: Marked) -> Assign:
        if not node.is_list or not 1 <= len(node.value) <= limits.ASSIGNMENTS:
            raise SourceError(
                f"assign is a list of 1 to {limits.ASSIGNMENTS} assignments",
                step=step,
                line=node.line,
            )
        return Assign(tuple(self._assignment(step, entry) for entry in node.value))

    def _assignment(self, step: str, entry: Marked) -> Assignment:
        if not entry.is_map or len(entry.value) != 1:
            raise SourceError(
                "an assignment is a map of one variable to its value", step=step, line=entry.line
            )
        ((target, value),) = entry.value.items()
        try:
            node = parse_target(target)
        except ParseError as wrong:
            raise SourceError(
                f"cannot assign {target!r}: {wrong}", step=step, line=entry.line
            ) from None
        if isinstance(node, Literal):
            raise SourceError(f"cannot assign {target!r}", step=step, line=entry.line)
        return Assignment(node, self.template(value, step), entry.line)

    def _call(self, step: str, node: Marked, fields: Mapping[str, Marked]) -> CallStep:
        if not isinstance(node.value, str):
            raise SourceError("call is the name of a function", step=step, line=node.line)
        if "${" in node.value:
            raise SourceError("call is a name, not an expression", step=step, line=node.line)
        args = fields.get("args")
        named: dict[str, Template] = {}
        positional: tuple[Template, ...] = ()
        if args is not None and args.is_map:
            for key, value in args.value.items():
                if "${" in key:
                    raise SourceError(
                        "an argument's name is no expression", step=step, line=value.line
                    )
            named = {key: self.template(value, step) for key, value in args.value.items()}
        elif args is not None and args.is_list:
            positional = tuple(self.template(value, step) for value in args.value)
        elif args is not None and args.value is not None:
            raise SourceError("args is a map or a list", step=step, line=args.line)
        result = fields.get("result")
        return CallStep(
            node.value, named, positional, _variable(result, "result", step) if result else None
        )

    def _switch(self, step: str, node: Marked) -> Switch:
        if not node.is_list or not 1 <= len(node.value) <= limits.CONDITIONS:
            raise SourceError(
                f"switch is a list of 1 to {limits.CONDITIONS} conditions",
                step=step,
                line=node.line,
            )
        return Switch(tuple(self._case(step, entry) for entry in node.value))

    def _case(self, step: str, entry: Marked) -> Case:
        fields = _map(entry, "a condition", step)
        if "condition" not in fields:
            raise SourceError("an entry of switch has no condition", step=step, line=entry.line)
        condition = self.template(fields["condition"], step)
        if not isinstance(condition, Expression) and not (
            isinstance(condition, Constant) and isinstance(condition.value, bool)
        ):
            raise SourceError(
                "a condition is an expression or a boolean", step=step, line=entry.line
            )
        return Case(condition, self._body(step, entry, entry, ("condition",), inline=True))

    def _for(self, step: str, node: Marked) -> For:
        fields = _map(node, "for", step)
        _only(fields, ("value", "index", "in", "range", "steps"), "for", step)
        if "value" not in fields or "steps" not in fields:
            raise SourceError("for needs value and steps", step=step, line=node.line)
        if ("in" in fields) == ("range" in fields):
            raise SourceError("for needs either in or range", step=step, line=node.line)
        if "index" in fields and "range" in fields:
            raise SourceError("index goes with in, not with range", step=step, line=node.line)
        items = self.template(fields["in"], step) if "in" in fields else None
        if isinstance(items, Constant) and not isinstance(items.value, list):
            raise SourceError("in is a list or an expression", step=step, line=fields["in"].line)
        return For(
            _variable(fields["value"], "value", step),
            _variable(fields["index"], "index", step) if "index" in fields else None,
            items,
            self._range(step, fields["range"]) if "range" in fields else None,
            self.steps(fields["steps"], step),
        )

    def _range(self, step: str, node: Marked) -> Template:
        template = self.template(node, step)
        if isinstance(template, Expression):
            return template
        if not node.is_list or len(node.value) != 2:
            raise SourceError(
                "range is a list of its first and last value", step=step, line=node.line
            )
        return template

    def _parallel(self, step: str, node: Marked) -> Parallel:
        fields = _map(node, "parallel", step)
        _only(
            fields,
            ("exception_policy", "shared", "concurrency_limit", "branches", "for"),
            "parallel",
            step,
        )
        policy = fields.get("exception_policy")
        if policy is not None and policy.value != "continueAll":
            raise SourceError(
                "exception_policy can only be continueAll", step=step, line=policy.line
            )
        if ("branches" in fields) == ("for" in fields):
            raise SourceError("parallel needs either branches or for", step=step, line=node.line)
        shared = fields.get("shared")
        if shared is not None and not shared.is_list:
            raise SourceError("shared is a list of variables", step=step, line=shared.line)
        limit = fields.get("concurrency_limit")
        return Parallel(
            tuple(_variable(name, "shared", step) for name in shared.value) if shared else (),
            self._limit(step, limit) if limit else None,
            self._branches(step, fields["branches"]) if "branches" in fields else (),
            self._for(step, fields["for"]) if "for" in fields else None,
        )

    def _limit(self, step: str, node: Marked) -> Template:
        limit = self.template(node, step)
        if isinstance(limit, Constant) and not (
            isinstance(limit.value, int) and not isinstance(limit.value, bool) and limit.value > 0
        ):
            raise SourceError("concurrency_limit is a positive integer", step=step, line=node.line)
        return limit

    def _branches(self, step: str, node: Marked) -> tuple[tuple[str, StepList], ...]:
        if not node.is_list or not 2 <= len(node.value) <= limits.BRANCHES:
            raise SourceError(
                f"branches is a list of 2 to {limits.BRANCHES} branches", step=step, line=node.line
            )
        branches: list[tuple[str, StepList]] = []
        for entry in node.value:
            if not entry.is_map or len(entry.value) != 1:
                raise SourceError("a branch is a map of one name", step=step, line=entry.line)
            ((name, body),) = entry.value.items()
            if not _STEP_NAME.fullmatch(name) or name in _RESERVED:
                raise SourceError(f"{name!r} cannot name a branch", step=step, line=entry.line)
            fields = _map(body, f'branch "{name}"', name)
            _only(fields, ("steps",), f'branch "{name}"', name)
            if "steps" not in fields:
                raise SourceError("a branch has steps", step=name, line=body.line)
            branches.append((name, self.steps(fields["steps"], name)))
        return tuple(branches)

    def _try(self, step: str, node: Marked, fields: Mapping[str, Marked]) -> Try:
        body = _map(node, "try", step)
        if "for" in body:
            # The service refuses this: "loop step name should not be empty".
            raise SourceError(
                "a for directly inside try must be a named step under try: steps:",
                step=step,
                line=node.line,
            )
        if "retry" not in fields and "except" not in fields:
            raise SourceError("try needs retry or except", step=step, line=node.line)
        if list(body) == ["steps"]:
            steps = self.steps(body["steps"], step)
        else:
            steps = StepList((self._body(step, node, node),))
        retry = fields.get("retry")
        handler = fields.get("except")
        return Try(
            steps,
            self._retry(step, retry) if retry else None,
            self._handler(step, handler) if handler else None,
        )

    def _retry(self, step: str, node: Marked) -> RetryPolicy | Expression:
        if not node.is_map:
            policy = self.template(node, step)
            if not isinstance(policy, Expression):
                raise SourceError(
                    "retry is a policy such as ${http.default_retry} or a map",
                    step=step,
                    line=node.line,
                )
            return policy
        fields = _complete(node, ("predicate", "max_retries", "backoff"), "retry", step)
        predicate = self.template(fields["predicate"], step)
        if not isinstance(predicate, Expression):
            raise SourceError(
                "predicate is an expression such as ${http.default_retry_predicate}",
                step=step,
                line=fields["predicate"].line,
            )
        backoff = self.template(fields["backoff"], step)
        if not isinstance(backoff, Expression):
            _complete(fields["backoff"], BACKOFF_ATTRIBUTES, "backoff", step)
        return RetryPolicy(predicate, self.template(fields["max_retries"], step), backoff)

    def _handler(self, step: str, node: Marked) -> Handler:
        fields = _map(node, "except", step)
        _only(fields, ("as", "steps"), "except", step)
        if "as" not in fields:
            raise SourceError("except needs as", step=step, line=node.line)
        steps = fields.get("steps")
        return Handler(
            _variable(fields["as"], "as", step), self.steps(steps, step) if steps else None
        )

    def template(self, node: Marked, step: str | None) -> Template:
        """Return a value with the expressions in it."""
        if node.is_list:
            items = tuple(self.template(item, step) for item in node.value)
            if all(isinstance(item, Constant) for item in items):
                return Constant([item.value for item in items if isinstance(item, Constant)])
            return ListTemplate(items)
        if node.is_map:
            return self._map_template(node, step)
        if isinstance(node.value, str) and "${" in node.value:
            return Expression(_expression(node, step), node.line)
        return Constant(node.value)

    def _map_template(self, node: Marked, step: str | None) -> Template:
        entries = tuple(
            (self.template(Marked(key, value.line, value.column), step), self.template(value, step))
            for key, value in node.value.items()
        )
        constants = {
            key.value: value.value
            for key, value in entries
            if isinstance(key, Constant) and isinstance(value, Constant)
        }
        return Constant(constants) if len(constants) == len(entries) else MapTemplate(entries)


def _expression(node: Marked, step: str | None) -> Node:
    text = node.value.strip()
    if not (text.startswith("${") and text.endswith("}")):
        raise SourceError(
            'an expression is the whole value; write ${"text " + variable}',
            step=step,
            line=node.line,
        )
    if len(text) > limits.EXPRESSION_CHARACTERS:
        raise SourceError(
            f"the expression has {len(text)} characters, over {limits.EXPRESSION_CHARACTERS}",
            step=step,
            line=node.line,
        )
    try:
        return parse(text[2:-1])
    except ParseError as wrong:
        raise SourceError(f"{text}: {wrong}", step=step, line=node.line) from None


def _variable(node: Marked, what: str, step: str) -> str:
    name = node.value
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    shown = repr(name) if not (node.is_map or node.is_list) else "this"
    raise SourceError(f"{what} is a variable's name, not {shown}", step=step, line=node.line)


def _map(node: Marked, what: str, step: str | None) -> dict[str, Marked]:
    if not node.is_map:
        raise SourceError(f"{what} is a map", step=step, line=node.line)
    fields: dict[str, Marked] = node.value
    return fields


def _only(
    fields: Mapping[str, Marked], known: Collection[str], what: str, step: str | None
) -> None:
    for key, value in fields.items():
        if key not in known:
            raise SourceError(f"{what} has no {key!r} here", step=step, line=value.line)


def _complete(node: Marked, keys: tuple[str, ...], what: str, step: str) -> dict[str, Marked]:
    fields = _map(node, what, step)
    _only(fields, keys, what, step)
    for key in keys:
        if key not in fields:
            raise SourceError(f"{what} needs {key}", step=step, line=node.line)
    return fields
