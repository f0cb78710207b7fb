"""What Transformer Engine takes and what Megatron-Core gives it, both read from source trees alone.

    python tools/te_signatures.py uses MEGATRON_CORE --engine 2.19.0 > USES
    python tools/te_signatures.py takes TRANSFORMER_ENGINE USES... > SIGNATURES

MEGATRON_CORE is the folder `megatron/core` of a wheel or checkout, TRANSFORMER_ENGINE the folder
`transformer_engine`. Nothing is imported or installed: both are parsed. `uses` lists every function and class
that Megatron calls or derives from, with the keywords; where it asks for a version of Transformer Engine,
the branch of the version given counts. `takes` looks those names up and lists their parameters, each as
`[name, kind, default]`.

tests/unit/test_te_signatures.py compares the two, as kept in tests/data/te_*.json.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.version import Version

ROOT = "transformer_engine"
EXTENSION = "extensions/transformer_engine.py"
"""Megatron's module that the others have Transformer Engine's layers from."""
ELSEWHERE = (
    *("distributed/fsdp", "inference", "models", "post_training", "ssm"),
    "tensor_parallel/generalized_tensor_parallelism.py",
)
"""Where Megatron uses it for what our models and runs do not have."""

Uses = dict[str, list[str]]
"""By dotted name, the keywords that are passed; `name()` is the same of its `forward`."""


def main() -> int:
    """Print what is asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    used = verbs.add_parser("uses")
    used.add_argument("tree", type=Path)
    used.add_argument("--engine", type=Version, required=True)
    taken = verbs.add_parser("takes")
    taken.add_argument("tree", type=Path)
    taken.add_argument("names", type=Path, nargs="+")
    given = parser.parse_args()
    if given.verb == "uses":
        found: Mapping[str, Any] = uses(given.tree, given.engine)
    else:
        names = {name for file in given.names for name in json.loads(file.read_text())}
        found = {name: Tree(given.tree).signature(name) for name in sorted(names)}
    lines = (f" {json.dumps(name)}: {json.dumps(found[name])}" for name in found)
    print("{", ",\n".join(lines), "}", sep="\n")
    return 0


def uses(tree: Path, engine: Version) -> Uses:
    """What the Megatron-Core of this tree takes from Transformer Engine, and the keywords it passes.

    Args:
        engine: the version of Transformer Engine that it is to find.
    """
    found: dict[str, set[str]] = defaultdict(set)
    handed_on: dict[str, set[str]] = {}
    for text in _users(tree):
        reader = _Reader(ast.parse(text), engine, handed_on)
        for name, keywords in reader.read():
            found[name] |= {keyword for keyword in keywords if keyword is not None}
        handed_on = handed_on or reader.names
    packed = ast.parse((tree / "packed_seq_params.py").read_text())
    fields = {name for name, _, _ in _fields(_named(packed, "PackedSeqParams"))}
    attention = f"{ROOT}.pytorch.DotProductAttention()"
    found[attention] |= {str(name) for name in fields} - found.pop("discarded", set())
    return {name: sorted(found[name]) for name in sorted(found)}


def _users(tree: Path) -> Iterator[str]:
    """The modules that name Transformer Engine; first that which hands it on to the others."""
    yield (tree / EXTENSION).read_text()
    for file in sorted(tree.rglob("*.py")):
        place = file.relative_to(tree).as_posix()
        if place != EXTENSION and not place.startswith(ELSEWHERE) and ROOT in (text := file.read_text()):
            yield text


class _Reader(ast.NodeVisitor):
    """Walks a module of Megatron's, leaving out what another version of Transformer Engine gets."""

    def __init__(self, module: ast.Module, engine: Version, handed_on: Mapping[str, set[str]]) -> None:
        self.module, self.engine = module, engine
        self.handed_on = handed_on
        """What Megatron's extension has of Transformer Engine's for its other modules to import."""
        self.found: list[tuple[str, set[str]]] = []
        self.names: dict[str, set[str]] = {"te": {ROOT}, ROOT: {ROOT}}
        """What a name of the module may stand for."""
        self.base: str | None = None
        self.extra: set[str] = set()
        """Keywords that the function at hand collects before it passes them on."""

    def read(self) -> list[tuple[str, set[str]]]:
        """Each name used, with the keywords passed in that place."""
        self.visit(self.module)
        return self.found

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module and node.module.split(".")[0] == ROOT:
            for item in node.names:
                self._learn(item.asname or item.name, f"{node.module}.{item.name}")
        elif node.module == "megatron.core.extensions.transformer_engine":
            for item in node.names:
                for meant in self.handed_on.get(item.name, ()):
                    self._learn(item.name, meant)

    def _learn(self, name: str, dotted: str) -> None:
        self.names.setdefault(name, set()).add(dotted)
        self.found.append((dotted, set()))

    def visit_Try(self, node: ast.Try) -> None:
        # The rest is what an older release gets, where an import fails.
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_If(self, node: ast.If) -> None:
        truth = _truth(node.test, self.engine)
        if truth is None:
            self.visit(node.test)
        for statement in [*(node.body if truth is not False else []), *(node.orelse if not truth else [])]:
            self.visit(statement)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [name for base in node.bases for name in self._meant(base)]
        before, self.base = self.base, bases[0] if bases else None
        for name in bases:
            self.found.append((name, set()))
        for statement in node.body:
            self.visit(statement)
        self.base = before

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self.extra = self.extra, set()
        names, self.names = self.names, {name: set(meant) for name, meant in self.names.items()}
        self.generic_visit(node)
        self.extra, self.names = before, names

    def visit_Attribute(self, node: ast.Attribute) -> None:
        meant = self._meant(node)
        self.found += [(name, set()) for name in meant]
        if not meant:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                if isinstance(target.value, ast.Name) and target.value.id.endswith("kwargs"):
                    self.extra.add(str(target.slice.value))
            elif isinstance(target, ast.Name):
                for meant in self._meant(node.value):
                    self._learn(target.id, meant)
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        keywords = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
        if any(keyword.arg is None for keyword in node.keywords):
            keywords |= self.extra
        called = node.func
        if isinstance(called, ast.Name) and called.id == "_get_extra_te_kwargs":
            self.extra |= {"params_dtype", "device"}
        for inner in ast.iter_child_nodes(node):
            self.visit(inner)
        if any(keyword.arg is None and _calls_extra(keyword.value) for keyword in node.keywords):
            keywords |= {"params_dtype", "device"}
        if _is_discard(called):
            self.found.append(("discarded", {str(ast.literal_eval(node.args[0]))}))
        elif self.base is not None and _is_of_super(called, "__init__"):
            self.found.append((self.base, keywords))
        elif self.base is not None and _is_of_super(called, "forward"):
            self.found.append((f"{self.base}()", keywords))
        else:
            self.found += [(name, keywords) for name in self._meant(called)]

    def _meant(self, node: ast.expr) -> set[str]:
        """The dotted names of Transformer Engine that an expression may stand for."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, set()) if node.id not in ("te", ROOT) else {ROOT}
        if isinstance(node, ast.Attribute):
            return {f"{meant}.{node.attr}" for meant in self._meant(node.value)}
        return set()


def _is_discard(called: ast.expr) -> bool:
    """Of what a packed row says and Transformer Engine's attention is not told."""
    return ast.unparse(called) == "self.kept_packed_seq_params.discard"


def _calls_extra(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "_get_extra_te_kwargs"
    )


def _is_of_super(called: ast.expr, name: str) -> bool:
    return (
        isinstance(called, ast.Attribute)
        and called.attr == name
        and isinstance(called.value, ast.Call)
        and isinstance(called.value.func, ast.Name)
        and called.value.func.id == "super"
    )


def _truth(test: ast.expr, engine: Version) -> bool | None:
    """What a test comes to where this version is installed; None where it asks for something else."""
    if isinstance(test, ast.Name) and test.id == "HAVE_TE":
        return True
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _truth(test.operand, engine)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        parts = [_truth(part, engine) for part in test.values]
        if isinstance(test.op, ast.And):
            return False if False in parts else (None if None in parts else True)
        return True if True in parts else (None if None in parts else False)
    match test:
        case ast.Call(func=ast.Name(id="is_te_min_version"), args=[ast.Constant(value=str(least))]):
            equal = all(ast.literal_eval(word.value) for word in test.keywords)
            return engine >= Version(least) if equal else engine > Version(least)
        case ast.Compare(
            left=ast.Call(func=ast.Name(id="get_te_version")),
            ops=[ast.Lt()],
            comparators=[ast.Call(args=[ast.Constant(value=str(bound))])],
        ):
            return engine < Version(bound)
    return None


class Tree:
    """A source tree of Transformer Engine, in which names are looked up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def signature(self, name: str) -> dict[str, Any] | None:
        """The parameters of what `name` is called for; None where the tree has no such name.

        Besides `parameters` there is `ignores_unknown`: true of pydantic's dataclasses, which drop
        keywords that they do not have.
        """
        forward = name.endswith("()")
        found = self._find(name.removesuffix("()"))
        if found is None:
            return None
        module, node = found
        if isinstance(node, ast.FunctionDef):
            return {"parameters": _parameters(node), "ignores_unknown": False}
        if not isinstance(node, ast.ClassDef):
            return {"parameters": [], "ignores_unknown": False}
        if _is_dataclass(node):
            return {"parameters": _fields(node), "ignores_unknown": "pydantic" in module.read_text()}
        method = "forward" if forward else "__init__"
        return {"parameters": list(self._method(module, node, method)), "ignores_unknown": False}

    def _method(self, module: Path, node: ast.ClassDef, method: str) -> Iterator[list[str | None]]:
        """Its parameters, and where it passes others on, those of the class that it derives from."""
        own = next((part for part in node.body if getattr(part, "name", None) == method), None)
        parameters = _parameters(own)[1:] if isinstance(own, ast.FunctionDef) else []
        yield from (one for one in parameters if one[1] != "other keywords")
        if isinstance(own, ast.FunctionDef) and own.args.kwarg is None:
            return
        for base in node.bases:
            found = self._in(module, base.id) if isinstance(base, ast.Name) else None
            if found is not None and isinstance(found[1], ast.ClassDef):
                yield from self._method(found[0], found[1], method)

    def _find(self, dotted: str) -> tuple[Path, ast.AST] | None:
        parts = dotted.split(".")[1:]
        folder = self.folder
        for depth, part in enumerate(parts):
            if (folder / part).is_dir():
                folder = folder / part
            elif (module := folder / f"{part}.py").is_file():
                return (
                    self._in(module, *parts[depth + 1 :])
                    if parts[depth + 1 :]
                    else (module, ast.Module(body=[], type_ignores=[]))
                )
            else:
                return self._in(folder / "__init__.py", *parts[depth:])
        return folder / "__init__.py", ast.Module(body=[], type_ignores=[])

    def _in(self, module: Path, name: str, *deeper: str) -> tuple[Path, ast.AST] | None:
        """A name of a module or what it imports under that name; then, of a class, a member."""
        for node in ast.walk(ast.parse(module.read_text())):
            if _defines(node, name):
                if deeper:
                    members = (part for part in getattr(node, "body", ()) if _defines(part, deeper[0]))
                    return next(((module, part) for part in members), None)
                return module, node
            if isinstance(node, ast.ImportFrom):
                for item in node.names:
                    wanted = name if item.name == "*" else item.name
                    if name == (item.asname or wanted) and (
                        found := self._imported(module, node, wanted, deeper)
                    ):
                        return found
        return None

    def _imported(
        self, module: Path, node: ast.ImportFrom, name: str, deeper: tuple[str, ...]
    ) -> tuple[Path, ast.AST] | None:
        package = module.relative_to(self.folder.parent).with_suffix("").parts
        above = package[: len(package) - node.level] if node.level else ()
        dotted = [*above, *(node.module.split(".") if node.module else []), name, *deeper]
        if dotted[0] == self.folder.name:
            return self._find(".".join(dotted))
        # What comes compiled is there, and what it takes is not known.
        return (module, node) if any(item.name == name for item in node.names) else None


def _defines(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.name == name
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _named(module: ast.Module, name: str) -> ast.ClassDef:
    return next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _fields(node: ast.ClassDef) -> list[list[str | None]]:
    return [
        [part.target.id, "either", None if part.value is None else ast.unparse(part.value)]
        for part in node.body
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    ]


def _parameters(node: ast.FunctionDef) -> list[list[str | None]]:
    given = node.args
    named = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [*[None] * (len(named) - len(given.defaults)), *given.defaults]
    found = [_parameter(one, "either", default) for one, default in zip(named, defaults, strict=True)]
    found += [
        _parameter(one, "keyword", default)
        for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
    ]
    return found + ([[given.kwarg.arg, "other keywords", None]] if given.kwarg else [])


def _parameter(one: ast.arg, kind: str, default: ast.expr | None) -> list[str | None]:
    return [one.arg, kind, None if default is None else ast.unparse(default)]


if __name__ == "__main__":
    sys.exit(main())
