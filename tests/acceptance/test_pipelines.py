"""examples/pipelines: the very shell lines of the examples, against real databases; and their structure.

What GitHub and GitLab do around them (containers, approvals, secrets) is not tried: each line gets a directory for its
workspace, and an artifact is a copy of the file that the example names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.databases import Database
from tests.job import SCRIPTS

ROOT = Path(__file__).parents[2]
PIPELINES = ROOT / "examples" / "pipelines"
PAGE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
HEAD = "84ba5df1c76e"
SECRET = re.compile(r"\$\{\{ secrets\.\w+ \}\}|\$BOOKSHOP_\w+|postgresql\+psycopg://bookshop:.*")
SERVERS = pytest.mark.parametrize("database", ["mariadb", "postgresql"], indirect=True)


@dataclass
class Pipeline:
    """One run of an example: its jobs one by one, each in a workspace of its own."""

    folder: Path
    database: Database
    app: Path
    artifacts: dict[str, bytes] = field(default_factory=dict)
    workspace: Path = Path()
    said: str = ""

    def github(self, name: str) -> dict[str, str]:
        """Run a job's steps; return the outputs of the steps. Raises CalledProcessError as soon as one fails."""
        whole = yaml.safe_load((PIPELINES / "github-actions.yaml").read_text())
        job = whole["jobs"][name]
        self._new_workspace(name)
        outputs, summary = self.folder / f"{name}-outputs", self.folder / f"{name}-summary"
        outputs.touch()
        env = {**whole["env"], **job["env"], "GITHUB_OUTPUT": str(outputs), "GITHUB_STEP_SUMMARY": str(summary)}
        for step in job["steps"]:
            match step:
                case {"run": script}:
                    self._shell(script, env)
                case {"uses": action, "with": given} if action.startswith("actions/upload-artifact@"):
                    self._keep(given["path"])
                case {"uses": action} if action.startswith("actions/download-artifact@"):
                    self._give()
                case other:
                    raise AssertionError(f"a step that is not known here: {other}")
        self.said += summary.read_text() if summary.exists() else ""
        return dict(line.split("=", 1) for line in outputs.read_text().splitlines())

    def gitlab(self, name: str) -> None:
        """Run a job's script. Raises CalledProcessError as soon as a line fails."""
        whole = yaml.safe_load((PIPELINES / "gitlab-ci.yaml").read_text())
        job = whole[name]
        self._new_workspace(name)
        if job.get("needs"):
            self._give()
        self._shell("\n".join(job["script"]), {**whole["variables"], **job["variables"]})
        for path in job.get("artifacts", {}).get("paths", []):
            self._keep(path)

    def _new_workspace(self, name: str) -> None:
        self.workspace = self.folder / name
        self.workspace.mkdir(exist_ok=True)

    def _keep(self, path: str) -> None:
        self.artifacts[path] = (self.workspace / path).read_bytes()

    def _give(self) -> None:
        assert self.artifacts
        for path, content in self.artifacts.items():
            (self.workspace / path).write_bytes(content)

    def _shell(self, script: str, env: Mapping[str, Any]) -> None:
        """As both systems do in a container: sh, that ends with the first command that fails."""
        mine = {
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.folder),
        }
        given = {name: self._value(str(value)) for name, value in env.items()}
        done = subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=self.workspace,
            env=mine | given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        self.said += done.stdout
        assert not done.stderr, done.stderr
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, script, done.stdout)

    def _value(self, text: str) -> str:
        text = SECRET.sub(lambda _: self.database.url, text)
        assert "$BOOKSHOP" not in text and "secrets." not in text
        return text.replace("/app/", f"{self.app}/")


@pytest.fixture
def pipeline(tmp_path: Path, database: Database) -> Iterator[Pipeline]:
    app = tmp_path / "app"
    shutil.copytree(ROOT / "examples" / "bookshop", app, ignore=shutil.ignore_patterns("__pycache__"))
    yield Pipeline(tmp_path, database, app)


def ends_with(code: int) -> Any:
    return pytest.raises(subprocess.CalledProcessError, match=f"exit status {code}")


@SERVERS
def test_github_applies_what_was_planned_and_asks_nobody_when_nothing_is_pending(pipeline: Pipeline) -> None:
    assert pipeline.github("plan") == {"pending": "true"}
    assert "```sql\n" in pipeline.said and "CREATE TABLE books" in pipeline.said
    assert len(json.loads(pipeline.artifacts["plan.json"])["databases"][0]["pending"]) == 11
    assert pipeline.database.tables() == set()
    pipeline.github("apply")
    assert pipeline.database.versions() == {HEAD}
    assert pipeline.github("plan") == {"pending": "false"}


@SERVERS
def test_gitlab_applies_what_was_planned(pipeline: Pipeline) -> None:
    pipeline.gitlab("plan")
    assert b"CREATE TABLE books" in pipeline.artifacts["plan.txt"]
    assert pipeline.database.tables() == set()
    pipeline.gitlab("apply")
    assert pipeline.database.versions() == {HEAD}


@SERVERS
@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_the_history_is_tried_and_compared_with_the_models(pipeline: Pipeline, system: str) -> None:
    getattr(pipeline, system)("try")
    assert pipeline.database.versions() == {HEAD}
    pipeline.database.execute("ALTER TABLE books ADD COLUMN by_hand INTEGER")
    with ends_with(4):
        getattr(pipeline, system)("try")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_a_file_that_changed_after_the_review_is_not_applied(pipeline: Pipeline, system: str) -> None:
    run = getattr(pipeline, system)
    run("plan")
    [file] = (pipeline.app / "migrations" / "versions").glob("*_create_customers.py")
    file.write_text(file.read_text() + "\n# edited\n")
    with ends_with(36):
        run("apply")
    assert pipeline.database.tables() == set()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_a_plan_that_cannot_be_made_fails_the_job_and_is_not_taken_for_nothing_pending(
    pipeline: Pipeline, system: str
) -> None:
    login = pipeline.database.login
    assert login
    url = pipeline.database.url.replace(login.password, "yesterdays-word")
    pipeline.database = Database("postgresql", url, login)
    with ends_with(11):
        getattr(pipeline, system)("plan")
    assert not pipeline.artifacts
    if system == "github":
        assert not (pipeline.folder / "plan-outputs").read_text()


def test_every_job_runs_in_the_image_and_those_that_plan_and_apply_in_the_same() -> None:
    github = yaml.safe_load((PIPELINES / "github-actions.yaml").read_text())
    assert len({str(job["container"]) for job in github["jobs"].values()}) == 1
    gitlab = yaml.safe_load((PIPELINES / "gitlab-ci.yaml").read_text())
    assert gitlab["default"]["image"]["entrypoint"] == [""]
    assert not any("image" in gitlab[job] for job in ("try", "plan", "apply"))


@pytest.mark.parametrize("file", ["github-actions.yaml", "gitlab-ci.yaml"])
def test_the_page_shows_the_file_as_it_is(file: str) -> None:
    assert f"```yaml\n{(PIPELINES / file).read_text()}```\n" in PAGE


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("github-actions.yaml", ("vendor.github-workflows",)),
        ("gitlab-ci.yaml", ("vendor.gitlab-ci", "--data-transform", "gitlab-ci")),
    ],
)
@pytest.mark.parametrize("misspelt", [False, True])
def test_the_structure_is_what_the_published_schema_asks_for(
    file: str, schema: tuple[str, ...], misspelt: bool, tmp_path: Path
) -> None:
    text = (PIPELINES / file).read_text()
    if misspelt:  # the schema sees something at all
        text = text.replace("    steps:", "    stepz:").replace("  stage:", "  stagee:")
    path = tmp_path / file
    path.write_text(text)
    done = subprocess.run(
        [SCRIPTS / "check-jsonschema", "--builtin-schema", *schema, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode != 0) == misspelt, done.stdout + done.stderr
