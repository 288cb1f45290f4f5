from typing import final

@final
class Methods:
    """What a server answers, by path. Made by the modules whose methods they are; `service` lives as long as this."""

    def __new__(cls, service: object) -> Methods: ...
    @property
    def paths(self) -> list[str]:
        """What is answered."""

    def _check(self) -> None: ...
