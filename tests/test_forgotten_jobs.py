"""Jobs that a program submits and does not wait for."""

from job_folder import finish, start, write

PROGRAM = """
import itertools, warnings
from sage_flow import LocalEnvironment

env = LocalEnvironment("forgotten")
env.from_iterable(itertools.count).map(str).write_text("out.txt")
{use}
print("the end")
"""

LINE = (
    "sage-flow: error: job 'forgotten' was submitted and neither waited for nor used with `with`: the program ends, so"
    " the job is cancelled and publishes nothing; call job.result(), or env.execute() instead of env.submit()\n"
)


def told(tmp_path, use):
    file = write(tmp_path / "program.py", PROGRAM.format(use=use))
    return finish(start(str(file), cwd=tmp_path, warnings="default"))


def test_a_submitted_job_that_nobody_waits_for_is_told_when_the_program_ends(tmp_path):
    code, out, err = told(tmp_path, "env.submit()")
    assert (code, out) == (0, "the end\n")  # Python has fixed the exit code before it calls exit handlers
    assert err.startswith(LINE)
    assert "ResourceWarning: job 'forgotten' was submitted" in err
    assert [file.name for file in tmp_path.iterdir()] == ["program.py"]


def test_the_line_comes_where_warnings_are_hidden_or_errors(tmp_path):
    for action in ("ignore", "error"):
        use = f"warnings.simplefilter({action!r}); job = env.submit()"
        code, out, err = told(tmp_path, use)
        assert (code, out) == (0, "the end\n")
        assert err.startswith(LINE)
        assert [file.name for file in tmp_path.iterdir()] == ["program.py"]


def test_a_job_that_is_used_is_not_told(tmp_path):
    assert told(tmp_path, "with env.submit() as job: pass") == (0, "the end\n", "")
    assert told(tmp_path, "job = env.submit(); job.cancel()") == (0, "the end\n", "")
