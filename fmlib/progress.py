"""Progress of a long loop: a bar for a person who watches, a printed line now and then for a log file."""

import sys

import fmlib


class Progress:
    """Counts steps on a tqdm bar when a person watches, else prints a line each time something is shown.

    Args:
        total: number of steps.
        start: steps done before.
        name: what stands in front.
    """

    def __init__(self, total: int, start: int = 0, name: str = ""):
        self.total, self.name, self.bar = total, name, None
        if watched():
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, initial=start, desc=name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.bar is not None:
            self.bar.close()

    def show(self, done: int, record: dict):
        """Move to step `done` and show the record's loss and speed."""
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            self.bar.set_postfix(loss=f"{record['loss']:.3f}")
        else:
            speed = record["samples_per_s"]
            print(
                f"{self.name}  step {done}/{self.total}  loss {record['loss']:.4f}  {speed:.0f} samples/s", flush=True
            )


def watched() -> bool:
    """Whether a person watches: a terminal, or a notebook run by hand."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return not fmlib.in_batch() and (sys.stderr.isatty() or hasattr(shell, "kernel"))
