"""`make dashboard`: draw the dashboard's panels from a real run, for the service's README.

A service is rendered and run under changing load (`record.py`), and what Prometheus says of it is
drawn (`panels.py`).
"""

import argparse
from pathlib import Path

from run import DATABASES, HERE, TEMPLATE, rendered, run

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
    with rendered(options.database) as (project, python, env):
        data = str(project.parent / "run.json")
        run([python, str(HERE / "record.py"), data, str(options.scale)], project, env)
        dashboard = str(project / "monitoring" / "dashboard.json")
        run([python, str(HERE / "panels.py"), data, dashboard, str(picture)], project, env)
    print(f"Written: {picture}")


if __name__ == "__main__":
    main()
