"""What tracking a series will read, before it is read."""

from dataclasses import dataclass

from dynamics.checkpoints.architectures import Role
from dynamics.checkpoints.http import split
from dynamics.checkpoints.series import CheckpointSeries
from dynamics.checkpoints.transport import CONNECTIONS
from dynamics.tracking.measures import ROLES


@dataclass(frozen=True)
class TrackCost:
    """What tracking reads, extrapolated from the last checkpoint, whose index is read for it.

    Attributes:
        series: Name of the series.
        checkpoints: How many are measured.
        bytes_per_checkpoint: Bytes of the embeddings of one, a tied matrix once.
        file_bytes_per_checkpoint: Bytes of the files that hold them, which are not all read.
        requests_per_checkpoint: Requests to a hub for one: where its files are, what is in them,
            and its ranges; 0 for a folder.
    """

    series: str
    checkpoints: int
    bytes_per_checkpoint: int
    file_bytes_per_checkpoint: int
    requests_per_checkpoint: int

    def describe(self) -> str:
        """The cost for people."""
        needed = self.checkpoints * self.bytes_per_checkpoint
        whole = self.checkpoints * self.file_bytes_per_checkpoint
        share = self.bytes_per_checkpoint / self.file_bytes_per_checkpoint
        requests = self.checkpoints * self.requests_per_checkpoint
        return (
            f"{self.series}: {self.checkpoints:,} checkpoints\n"
            f"embeddings  {self.bytes_per_checkpoint / 1e6:12,.1f} MB each  "
            f"{needed / 1e9:10,.2f} GB in all\n"
            f"their files {self.file_bytes_per_checkpoint / 1e6:12,.1f} MB each  "
            f"{whole / 1e9:10,.2f} GB in all, of which {share:.1%} is read\n"
            f"requests    {self.requests_per_checkpoint:12,} each     {requests:10,} in all"
        )


def track_cost(series: CheckpointSeries, steps: str = "all") -> TrackCost:
    """What tracking these steps costs; reads the index of the last one only.

    Raises:
        StepError: A step does not exist.
        CheckpointError: The last checkpoint cannot be read.
    """
    chosen = series.select(steps)
    last = chosen.checkpoints[-1]
    before = last.traffic.requests
    wanted = ROLES[:1] if last.tied else ROLES
    roles: list[Role] = [role for role in wanted if last.has(role)]
    needed = sum(last.bytes(role) for role in roles)
    files = {located.filename: located.file_bytes for located in map(last.locate, roles)}
    opening = last.traffic.requests - before
    ranges = sum(len(split(0, last.bytes(role), CONNECTIONS)) for role in roles)
    requests = opening + ranges if last.path is None else 0
    return TrackCost(chosen.name, len(chosen), needed, sum(files.values()), requests)
