"""torch's own table of operators: which of them an Apple GPU has."""

import functools
from pathlib import Path

import torchgen
import yaml

TABLE = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
ANYWHERE = {"CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"}
"""Made of other operators. What those of the first are is seen; of the others not."""


@functools.cache
def _operators():
    """Name with overload -> what the table says of it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = yaml.load(TABLE.read_text(), Loader=loader)
    return {one["func"].partition("(")[0]: one for one in found}


def _devices(name):
    """Those the table names a function for."""
    given = _operators()[name].get("dispatch") or {"CompositeImplicitAutograd": name}
    return {device.strip() for devices in given for device in devices.split(",")}


@functools.cache
def lacking(operator):
    """Why an Apple GPU has no such operator, or ""; operator: an OpOverload."""
    name = operator.name().removeprefix("aten::").removesuffix(".default")
    if operator.namespace != "aten":
        return f"{operator.name()} is not in torch's table"
    known = _operators()
    if name not in known:  # an `out` that is generated from one which is there
        return "" if any(name in one.get("autogen", "").split(", ") for one in known.values()) else f"no {name}"
    if "MPS" in _devices(known[name].get("structured_delegate", name)):
        return ""
    out = f"{name.partition('.')[0]}.out"
    if "structured_delegate" not in known[name] and _devices(name) & ANYWHERE:
        # One that allocates, and hands over to what devices have.
        ends = _devices(out) if out in known else ANYWHERE
        return "" if ends & (ANYWHERE | {"MPS"}) else f"{out} has no MPS"
    return f"{name} has no MPS"
