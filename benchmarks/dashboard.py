"""`make dashboard`: draw the dashboard's panels from a real run, for the service's README.

A service is rendered and run under changing load (`record.py`), and what Prometheus says of it is
drawn (`panels.py`).
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from run import DATABASES, HERE, TEMPLATE, run

MONITORING = TEMPLATE / "<<cookiecutter.project_slug>>" / "monitoring"


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--database", choices=DATABASES, default="postgresql", help="which")
    parser.add_argument("--scale", type=float, default=1.0, help="of the run's two minutes")
    parser.add_argument(
        "--picture", type=Path, default=MONITORING / "dashboard.svg", help="to write"
    )
    return parser.parse_args()


def main() -> None:
    """Render, run, draw."""
    options = read_arguments()
    picture = options.picture.absolute()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        answers = [f"database={options.database}", "run_tests=no"]
        cookiecutter = [sys.executable, "-m", "cookiecutter", str(TEMPLATE), "--no-input"]
        run([*cookiecutter, "--default-config", "--output-dir", folder, *answers], Path(folder))
        project = Path(folder, "my-service")
        run(["uv", "sync", "--quiet", "--group", "bench"], project)
        python = str(project / ".venv" / "bin" / "python")
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(project), str(HERE)])}
        data = str(Path(folder, "run.json"))
        run([python, str(HERE / "record.py"), data, str(options.scale)], project, env)
        dashboard = str(project / "monitoring" / "dashboard.json")
        run([python, str(HERE / "panels.py"), data, dashboard, str(picture)], project, env)
    print(f"Written: {picture}")


if __name__ == "__main__":
    main()
