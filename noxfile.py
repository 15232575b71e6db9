"""Every check, and the chores. `nox` alone runs what CI runs; `nox -l` lists the sessions.

The packages are tested as their users get them: as wheels from dist/, never from src.
"""

import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
PROJECTS = {path.parent.name: nox.project.load_toml(path) for path in sorted(ROOT.glob("packages/*/pyproject.toml"))}
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")["dependency-groups"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
OURS = [project["project"]["name"] for project in PROJECTS.values()]
MANY = {"adapter-host"}  # its tests run on a virtual clock, so that two processes may share them out
MODULES = "opentelemetry-api=opentelemetry,python-json-logger=pythonjsonlogger"  # where the names differ
# Told to reinstall, uv passes over a wheel of the same version that it installed or cached before.
FROM_DIST = ["--find-links", "dist", *(word for name in OURS for word in ("--reinstall-package", name))]

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # a Python that is not there is skipped, and the summary says so
nox.options.sessions = ["lint", "types", "imports", "tests", "cross", "engines-llamacpp"]


def install(session: nox.Session, *requirements: str) -> None:
    """Install pinned versions. uv checks the hashes in the constraints, and lets our wheels, which have none, pass."""
    session.install("--constraint", "constraints.txt", *requirements)


def everything() -> list[str]:
    """Every package with all its extras, as requirements."""
    extras = {name: ",".join(p["project"].get("optional-dependencies", {})) for name, p in PROJECTS.items()}
    return [f"{PROJECTS[name]['project']['name']}[{some}]" for name, some in extras.items()]


def pytest(session: nox.Session, *args: str, **environment: str) -> None:
    """Run pytest without the root on the path. Loop debug is set there: `-X dev` would make aiohttp parse strictly."""
    session.run("python", "-P", "-m", "pytest", *args, env=environment)


@nox.session(reuse_venv=True)
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(reuse_venv=True)
def types(session: nox.Session) -> None:
    """Check the types of every package, and of this file, with mypy --strict."""
    session.install("--require-hashes", "--no-deps", "--requirement", "constraints.txt")
    session.run("mypy", *(f"packages/{name}/src" for name in PROJECTS), "noxfile.py", "conftest.py")


@nox.session(reuse_venv=True)
def imports(session: nox.Session) -> None:
    """Check who may import whom, and that each package declares what it imports."""
    install(session, "import-linter", "deptry")
    sources = [str(ROOT / "packages" / name / "src") for name in PROJECTS]
    session.run("lint-imports", "--no-logo", env={"PYTHONPATH": ":".join(sources)})
    for name in PROJECTS:
        with session.chdir(f"packages/{name}"):
            # the embedded engine's own process imports xllamacpp by name
            ignores = ("--per-rule-ignores", "DEP002=xllamacpp")
            session.run("deptry", "src", *ignores, "--package-module-name-map", MODULES, silent=True)


@nox.session(reuse_venv=True, default=False)
def wheels(session: nox.Session) -> None:
    """Build every package's wheel into dist/."""
    install(session, "hatchling")
    shutil.rmtree(DIST, ignore_errors=True)
    for name in PROJECTS:
        with session.chdir(f"packages/{name}"):
            session.run("hatchling", "build", "--target", "wheel", "--directory", str(DIST), silent=True)


@nox.session(python=PYTHONS, requires=["wheels"])
@nox.parametrize("package", list(PROJECTS), ids=list(PROJECTS))
def tests(session: nox.Session, package: str) -> None:
    """Test one package, from its wheel and with only its declared dependencies."""
    distribution = PROJECTS[package]["project"]["name"]
    module = distribution.replace("-", "_")
    install(session, *FROM_DIST, distribution)
    where = session.run("python", "-P", "-c", f"import {module}; print({module}.__file__)", silent=True)
    if "site-packages" not in str(where):
        session.error(f"{module} comes from {where}, not from its wheel")
    install(session, *FROM_DIST, *GROUPS["tests"], *GROUPS.get(package, []))
    shared = ["--numprocesses", "2"] if package in MANY else []
    pytest(session, f"packages/{package}/tests", *shared, *session.posargs)


@nox.session(requires=["wheels"])
def cross(session: nox.Session) -> None:
    """Test all packages together, extras and a real engine included."""
    install(session, *FROM_DIST, *everything(), *GROUPS["tests"], *GROUPS["cross"])
    pytest(session, "tests", "--ignore", "tests/engines", *session.posargs)


@nox.session(name="engines-llamacpp", requires=["wheels"])
def engines_llamacpp(session: nox.Session) -> None:
    """Test a real llama.cpp through the host: cancels, failures, the same tokens for the same seed."""
    install(session, *FROM_DIST, *everything(), *GROUPS["tests"], *GROUPS["cross"])
    pytest(session, "tests/engines", "-s", *session.posargs, ENGINE="llamacpp")


@nox.session(name="engines-vllm", requires=["wheels"], default=False)
def engines_vllm(session: nox.Session) -> None:
    """Test a real vLLM on the CPU in the same way; the first run installs it, 3.4 GB, in an environment of its own."""
    install(session, *FROM_DIST, *everything(), *GROUPS["tests"], *GROUPS["cross"])
    vllm = session.cache_dir / "vllm"
    session.run("python", "-P", "tests/engines/prepare_vllm.py", str(vllm))
    pytest(session, "tests/engines", "-s", *session.posargs, ENGINE="vllm", VLLM=str(vllm))


@nox.session(requires=["wheels"], default=False)
def demo(session: nox.Session) -> None:
    """Stream an answer of a real model: nox -s demo -- "Why is the sky blue?"."""
    install(session, *FROM_DIST, "llama-orch-adapter-host[cli]", "llama-orch-adapter-llamacpp[embedded]", "uv")
    prompt = session.posargs or ["Why is the sky blue?"]
    session.run("adapter-host", "chat", "--embedded", *prompt)


@nox.session(requires=["wheels"], default=False)
def nightly(session: nox.Session) -> None:
    """Run the random tests at full size, for many hours (the soak alone up to 4); each prints the seed to replay it."""
    groups = [tool for group in GROUPS.values() for tool in group]
    install(session, *FROM_DIST, *everything(), *groups)
    pytest(session, "-m", "nightly", "-s", *session.posargs, NIGHTLY="1")


@nox.session(requires=["wheels"], default=False)
def certify(session: nox.Session) -> None:
    """Certify every adapter by the conformance suite, and write docs/certificates and docs/compatibility.md."""
    install(session, *FROM_DIST, *everything(), *GROUPS["tests"])
    for suite in sorted(ROOT.glob("packages/adapter-*/tests/test_conformance.py")):
        name = suite.parts[-3].removeprefix("adapter-")
        if name != "testkit":  # its own tests try bad adapters
            pytest(session, str(suite), "--certificate", f"docs/certificates/{name}.json", *session.posargs)
    session.run("python", "-P", "-m", "tests.compatibility", env={"PYTHONPATH": str(ROOT)})


@nox.session(requires=["wheels"], default=False)
def simulate(session: nox.Session) -> None:
    """Live through days of faults and changes on a virtual clock, or replay flight records: nox -s simulate -- -h."""
    install(session, *FROM_DIST, "llama-orch-adapter-host", "llama-orch-adapter-testkit")
    session.run("python", "-m", "tests.simulator", *session.posargs)


@nox.session(requires=["wheels"], default=False)
def bench(session: nox.Session) -> None:
    """Measure what ours costs: nox -s bench -- http-util [quick], or http2, host, orchestratord."""
    install(session, *FROM_DIST, *everything(), "trustme")
    session.run("python", "-P", "benchmarks/run.py", *session.posargs, env={"PYTHONPATH": "benchmarks"})


@nox.session(requires=["wheels"], default=False)
def coverage(session: nox.Session) -> None:
    """Run every test in one environment and report the branches that none takes."""
    groups = [tool for group in GROUPS.values() for tool in group]
    install(session, *FROM_DIST, *everything(), *groups)
    session.run("coverage", "run", "--parallel-mode", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session(reuse_venv=True, default=False)
def changelog(session: nox.Session) -> None:
    """Write a release's changelog: nox -s changelog -- adapter-api 0.2.0; without arguments, show what is to come."""
    install(session, "towncrier")
    if not session.posargs:
        for name in PROJECTS:
            arguments = ["--dir", f"packages/{name}", "--name", name, "--version", "next"]
            session.run("towncrier", "build", "--config", "pyproject.toml", "--draft", *arguments)
        return
    name, version = session.posargs
    arguments = ["--dir", f"packages/{name}", "--name", name, "--version", version]
    session.run("towncrier", "build", "--config", "pyproject.toml", "--yes", *arguments)


@nox.session(reuse_venv=True, default=False)
def lock(session: nox.Session) -> None:
    """Resolve constraints.txt again: nox -s lock -- --upgrade takes the newest, -P NAME one newer package."""
    session.install("uv")
    groups = [argument for group in GROUPS for argument in ("--group", f"pyproject.toml:{group}")]
    ours = [argument for name in OURS for argument in ("--no-emit-package", name)]
    session.run(
        *("uv", "pip", "compile", "--quiet", "--output-file", "constraints.txt"),
        *("--universal", "--python-version", PYTHONS[0], "--all-extras", "--generate-hashes"),
        *("--no-header", "--no-annotate", "--no-emit-index-url"),
        *(f"packages/{name}/pyproject.toml" for name in PROJECTS),
        *groups,
        *ours,
        *session.posargs,
    )
