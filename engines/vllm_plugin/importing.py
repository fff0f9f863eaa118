"""Something done to a module right after its import, or at once if it is there already; changes sys.meta_path."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Act = Callable[[ModuleType], None]


class AfterImport(MetaPathFinder):
    """A finder that finds what the others find, and lets loading be followed by an act."""

    def __init__(self) -> None:
        self._acts: dict[str, Act] = {}

    def do(self, name: str, act: Act) -> None:
        """Do it to the module called so, once; asked again before that, the later act counts."""
        module = sys.modules.get(name)
        if module is not None:
            act(module)
            return
        self._acts[name] = act
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See MetaPathFinder."""
        if fullname not in self._acts:
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec, spec.loader)
        return spec

    def _follow(self, spec: ModuleSpec, loader: Loader) -> None:
        """Loaders are made for one module each, so that this one can be told apart by an attribute."""
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            act = self._acts.pop(spec.name, None)
            if act is not None:
                act(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
