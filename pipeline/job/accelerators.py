"""Chooses the machine type for workers with an accelerator, and refuses a machine type that cannot have it.

Compute Engine attaches each type of GPU to machines of one family only: https://cloud.google.com/compute/docs/gpus.
A resource hint can name the machine type for the workers of one step:
https://cloud.google.com/dataflow/docs/guides/right-fitting.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from transforms.errors import UsageError

FLAG, MACHINE_TYPE = "--accelerator", "machine_type"


class Machine(NamedTuple):
    """A machine type of Compute Engine, see https://cloud.google.com/compute/docs/machine-resource.

    Attributes:
        name: The name of the machine type.
        cpus: The number of its virtual CPUs.
        gigabytes: Its memory in GB, as the documentation states it.
    """

    name: str
    cpus: int
    gigabytes: int


def _g2(*cpus: int) -> tuple[Machine, ...]:
    return tuple(Machine(f"g2-standard-{size}", size, 4 * size) for size in cpus)


def _n1(most_cpus: int) -> tuple[Machine, ...]:
    standard = [Machine(f"n1-standard-{size}", size, 15 * size // 4) for size in (4, 8, 16, 32, 64, 96)]
    large = [Machine(f"n1-highmem-{size}", size, 13 * size // 2) for size in (4, 8, 16, 32, 64, 96)]
    return tuple(sorted((m for m in (*standard, *large) if m.cpus <= most_cpus), key=lambda m: m.gigabytes))


# Accelerator -> number of accelerators -> the machine types that can have this number, the smallest first.
MACHINES: Mapping[str, Mapping[int, tuple[Machine, ...]]] = {
    "nvidia-l4": {1: _g2(4, 8, 12, 16, 32), 2: _g2(24), 4: _g2(48), 8: _g2(96)},
    "nvidia-tesla-t4": {1: _n1(48), 2: _n1(48), 4: _n1(96)},
    "nvidia-tesla-p4": {1: _n1(24), 2: _n1(48), 4: _n1(96)},
    "nvidia-tesla-v100": {1: _n1(12), 2: _n1(24), 4: _n1(48), 8: _n1(96)},
    "nvidia-tesla-p100": {1: _n1(16), 2: _n1(32), 4: _n1(64)},
    "nvidia-tesla-a100": {
        **{count: (Machine(f"a2-highgpu-{count}g", 12 * count, 85 * count),) for count in (1, 2, 4, 8)},
        16: (Machine("a2-megagpu-16g", 96, 1360),),
    },
    "nvidia-a100-80gb": {count: (Machine(f"a2-ultragpu-{count}g", 12 * count, 170 * count),) for count in (1, 2, 4, 8)},
    "nvidia-h100-80gb": {count: (Machine(f"a3-highgpu-{count}g", 26 * count, 234 * count),) for count in (1, 2, 4, 8)},
}
# The most float32 operations in a second, without tensor cores, by NVIDIA's data sheets: https://www.nvidia.com/en-us/data-center/.
PEAKS: Mapping[str, float] = {
    "nvidia-l4": 30.3e12,
    "nvidia-tesla-t4": 8.1e12,
    "nvidia-tesla-p4": 5.5e12,
    "nvidia-tesla-v100": 15.7e12,
    "nvidia-tesla-p100": 9.3e12,
    "nvidia-tesla-a100": 19.5e12,
    "nvidia-a100-80gb": 19.5e12,
    "nvidia-h100-80gb": 67e12,
}
N1 = re.compile(r"(n1-(standard|highmem|highcpu)-|custom-|n1-custom-)\d+")


class Hint(NamedTuple):
    """The parsed value of `--accelerator`.

    Attributes:
        text: The whole value.
        type: The type of the accelerator, such as `nvidia-l4`.
        number: The number of accelerators of each worker.
        machine: The machine type in the hint; None if there is none.
    """

    text: str
    type: str
    number: int
    machine: str | None

    @classmethod
    def of(cls, text: str) -> "Hint":
        """Parses a hint, such as `type:nvidia-l4;count:1`. The form of the text must have been checked."""
        fields = {name: value for name, _, value in (part.partition(":") for part in text.split(";"))}
        return cls(text, fields["type"], int(fields["count"]), fields.get(MACHINE_TYPE))

    def with_machine(self, machine: str) -> str:
        """Returns the text of the hint with a machine type in it, in place of any other machine type.

        Args:
            machine: The name of the machine type.

        >>> Hint.of("type:nvidia-l4;count:1;install-nvidia-driver").with_machine("g2-standard-4")
        'type:nvidia-l4;count:1;machine_type:g2-standard-4;install-nvidia-driver'
        """
        kind, number, *others = self.text.split(";")
        others = [other for other in others if not other.startswith(f"{MACHINE_TYPE}:")]
        return ";".join([kind, number, f"{MACHINE_TYPE}:{machine}", *others])


def check(text: str, machine_type: str | None) -> None:
    """Checks that a machine type can have the accelerators of a hint.

    Args:
        text: The value of `--accelerator`.
        machine_type: The value of `--machine_type`; None if it is not given. If the hint names a machine type, this
            one is for the workers without an accelerator, and is not checked.

    Raises:
        UsageError: The machine type cannot have the accelerators, or no machine type has this number of them. Or
            keyjoin does not know the accelerator, and the hint names no machine type.
    """
    hint = Hint.of(text)
    known = MACHINES.get(hint.type)
    if known is None:
        if hint.machine is None:
            raise UsageError(
                f"{FLAG}={text}: no machine with {hint.type} is known, only those with {', '.join(MACHINES)}; "
                f"name one: {FLAG}='{hint.with_machine('MACHINE')}'"
            )
        return
    if hint.number not in known:
        counts = ", ".join(map(str, known))
        raise UsageError(f"{FLAG}={text}: a worker has {counts} of {hint.type}; give one of these as count")
    given = hint.machine or machine_type
    if given is None or _fits(given, hint):
        return
    remedy = hint.with_machine(known[hint.number][0].name)
    flag = f"its {MACHINE_TYPE}" if hint.machine else f"--{MACHINE_TYPE}"
    rest = "" if hint.machine else f"; {flag} is then for the workers without it"
    raise UsageError(
        f"{FLAG}={text}: {flag}={given} cannot have {hint.number} of {hint.type}; give {FLAG}='{remedy}'{rest}"
    )


def _fits(machine: str, hint: Hint) -> bool:
    """Returns whether a machine type can have the accelerators of a hint.

    For the N1 family every size counts, because users can choose sizes freely, within limits.
    """
    fitting = MACHINES[hint.type][hint.number]
    if fitting[0].name.startswith("n1-"):
        return N1.match(machine) is not None
    return machine in {m.name for m in fitting} or (
        fitting[0].name.startswith("g2-") and machine.startswith("g2-custom-")
    )
