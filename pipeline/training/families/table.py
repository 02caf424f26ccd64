"""The one table of what is trained: name on the command line to task."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.training.families import patch3d, proposal3d, triplanar
from pipeline.training.tasks import Task

TASKS: Mapping[str, Task] = {**patch3d.TASKS, **triplanar.TASKS, **proposal3d.TASKS}
