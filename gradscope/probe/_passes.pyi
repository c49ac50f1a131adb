from torch import Size, Tensor, dtype

class Pass:
    size: int
    def __new__(
        cls,
        dtype: dtype,
        shape: Size,
        wide: bool,
        phi: int,
        entries: int,
        stride: int,
        codes: tuple[int, ...],
        counts_dead: bool,
        counts_bins: bool,
        constants: tuple[float, float, float, float],
        units: tuple[int, int, int, int],
        samples: tuple[int, int, int],
    ) -> Pass: ...
    def add(self, tensor: Tensor, exact: bool, /) -> int: ...
    def keep(self, tensor: Tensor, /) -> int: ...
    def change(self, tensor: Tensor, number: int, /) -> int: ...
    def forget(self) -> None: ...
    def taken(self) -> tuple[bytes, bytes, bytes]: ...
    def clear(self) -> None: ...
