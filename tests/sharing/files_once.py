"""Test files in turn for the processes of a run, also when one of them dies."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class FilesOnce(LoadFileScheduling):
    """`--dist loadfile`, mended for processes that die.

    pytest-xdist 3.8 hands out again what the dead one had finished, and others wait for its end for good
    (pytest-dev/pytest-xdist#1378); and the test in which it died, which ends the next one too (#1371).
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """Takes a process out of the run; what it has not begun goes to others.

        Args:
            node: The process.

        Returns:
            The test in which it died, if any.
        """
        files = self.assigned_work[node]
        died_in = next((test for tests in files.values() for test, is_done in tests.items() if not is_done), None)
        for file, tests in list(files.items()):
            if died_in in tests:
                tests[died_in] = True
            if all(tests.values()):
                del files[file]
        super().remove_node(node)
        return died_in

    def _reschedule(self, node: WorkerController) -> None:
        """Gives a process its next file, and the word to end after the last one: it keeps one test back till then."""
        super()._reschedule(node)
        while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            self._assign_work_unit(node)
        if not self.workqueue and not node.shutting_down:
            node.shutdown()
