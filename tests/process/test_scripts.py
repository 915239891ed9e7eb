"""The scripts a newcomer runs first, as they stand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT, free_port

WAIT_S = 110
BASH = shutil.which("bash")
OLD_PYTHON = '#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1"\nexit 1\n'


@pytest.fixture
def clone(tmp_path):
    """The parts of a clone that a script reads, with this environment as its set-up `.venv`."""
    folder = tmp_path / "clone"
    (folder / ".venv").mkdir(parents=True)
    for name in ("requirements.lock", "pyproject.toml", ".python-version"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / ".venv" / name).symlink_to(Path(sys.executable).parents[1] / name)
    stamp = "cat requirements.lock pyproject.toml .python-version | cksum"
    done = subprocess.run([BASH, "-c", stamp], cwd=folder, capture_output=True, check=True)
    (folder / ".venv" / ".installed").write_bytes(done.stdout)
    return folder


def test_the_demo_pays_once_and_its_balances_add_up(clone, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    kept = {n: v for n, v in os.environ.items() if n in {"PATH", "TMPDIR", "LANG"}}

    done = subprocess.run(
        [clone / "scripts" / "demo", "--once", "--port", str(free_port())],
        cwd=tmp_path,
        env={**kept, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"(\w+): +(\d+\.\d+) -> +(\d+\.\d+)  \(([+-]\d+\.\d+)\)", done.stdout)
    moved = {name: (_units(old), _units(new), _units(by)) for name, old, new, by in found}
    assert moved.keys() == {"buyer", "payee"}
    assert all(old + by == new for old, new, by in moved.values())
    assert (moved["buyer"][2], moved["payee"][2]) == (-10_000, 10_000)
    assert "The payee got exactly 0.01." in done.stdout
    assert done.stderr == "", "a set-up that is done says nothing"
    assert list(home.iterdir()) == []


def _units(text: str) -> int:
    return int(text.replace(".", ""))


@pytest.fixture
def tools(tmp_path):
    """A PATH with what setup.sh needs, and an old `python3` before everything else."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in ("dirname", "cat"):
        (folder / tool).symlink_to(shutil.which(tool))
    _executable(folder / "python3", OLD_PYTHON)
    _executable(folder / "python", OLD_PYTHON)
    return folder


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def found_python(path: str, **more: str) -> str:
    done = subprocess.run(
        [BASH, "-c", "source scripts/setup.sh; find_python"],
        cwd=ROOT,
        env={"PATH": path, "HOME": "/nonexistent", **more},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_old_python3_on_the_path_is_passed_over(tools, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "python3.13").symlink_to(sys.executable)

    assert found_python(f"{tools}:{other}") == str(other / "python3.13")


def test_a_python_of_pyenv_is_found_when_the_path_has_an_old_one_only(tools, tmp_path):
    python = tmp_path / "pyenv" / "versions" / "3.13.9" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)

    found = found_python(str(tools), PYENV_ROOT=str(tmp_path / "pyenv"))

    assert found == str(python)


def test_the_python_that_the_user_names_comes_first_unless_it_is_too_old(tools, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "python3.13").symlink_to(sys.executable)
    path = f"{tools}:{other}"

    assert found_python(path, PYTHON=sys.executable) == sys.executable
    assert found_python(path, PYTHON=str(tools / "python3")) == str(other / "python3.13")


# --- what a machine may lack ----------------------------------------------------------------------

APT_GET = """\
#!/bin/sh
echo "apt-get $*" >>"{log}"
case "$*" in *install*) cp "{stub}" "{folder}/npm" ;; esac
"""
NPM = """\
#!/bin/sh
echo "npm $*" >>"{log}"
mkdir -p node_modules
"""


@pytest.fixture
def bare(tmp_path):
    """A PATH without npm, a folder that wants Node packages, and what was called so far."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for tool in ("dirname", "cat", "cksum", "cp", "mkdir"):
        (folder / tool).symlink_to(shutil.which(tool))
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "package-lock.json").write_text("{}")
    log = tmp_path / "called"
    log.touch()
    _executable(tmp_path / "npm", NPM.format(log=log))
    return folder, packages, log


def debian(folder: Path, log: Path, user: int) -> None:
    """Let the machine be Debian, and us the user with this number."""
    stub = folder.parent / "npm"
    _executable(folder / "apt-get", APT_GET.format(log=log, stub=stub, folder=folder))
    _executable(folder / "id", f"#!/bin/sh\necho {user}\n")


def sourced(command: str, path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BASH, "-c", f"source scripts/setup.sh; {command}"],
        cwd=ROOT,
        env={"PATH": str(path), "HOME": "/nonexistent", **more},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_root_on_debian_gets_node_from_debian(bare):
    folder, packages, log = bare
    debian(folder, log, 0)

    done = sourced(f"set_up_node {packages}", folder, CI="true")

    assert done.returncode == 0, done.stderr
    assert "installing Debian's nodejs and npm" in done.stderr
    update, install, ci = log.read_text().splitlines()
    assert update.startswith("apt-get update")
    assert install.endswith(" nodejs npm")
    assert ci.startswith("npm ci ")
    assert (packages / "node_modules" / ".installed").is_file()


FROM_DEBIAN = pytest.mark.parametrize(
    ("name", "package"), [("postgres", "postgresql"), ("chromium", "chromium")]
)


@FROM_DEBIAN
def test_root_on_debian_gets_what_tests_need_from_debian(bare, name, package):
    folder, _, log = bare
    debian(folder, log, 0)

    is_there = f'has_{name}() {{ [[ "$(<{log})" == *{package}* ]]; }}'
    done = sourced(f"{is_there}; set_up_{name}", folder, CI="true")

    assert done.returncode == 0, done.stderr
    assert f"installing Debian's {package}" in done.stderr
    assert log.read_text().splitlines()[-1].endswith(f" {package}")


@FROM_DEBIAN
@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_without_it_its_package_is_named_and_only_ci_fails(bare, name, package, user, ci, code):
    folder, _, log = bare
    debian(folder, log, user)

    done = sourced(f"has_{name}() {{ false; }}; set_up_{name}", folder, CI=ci)

    assert done.returncode == code, done.stderr
    assert f"Debian's package: {package}" in done.stderr


@pytest.mark.parametrize("is_debian", [True, False])
@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_without_root_the_packages_are_named_and_only_ci_fails(bare, is_debian, ci, code):
    folder, packages, log = bare
    if is_debian:
        debian(folder, log, 1000)

    done = sourced(f"set_up_node {packages}", folder, CI=ci)

    assert done.returncode == code, done.stderr
    assert "Debian's packages: nodejs, npm" in done.stderr
    assert log.read_text() == ""


def test_ci_fails_when_debian_has_no_npm_to_give(bare):
    folder, packages, log = bare
    debian(folder, log, 0)
    _executable(folder / "apt-get", "#!/bin/sh\nexit 100\n")

    assert sourced(f"set_up_node {packages}", folder, CI="true").returncode == 1


def test_a_python_without_ensurepip_is_told_the_name_of_the_package(bare, tmp_path):
    folder, _, _ = bare
    python = tmp_path / "python3.13"
    _executable(python, "#!/bin/sh\nexit 1\n")

    done = sourced(f"make_venv {python} {tmp_path / 'venv'}; echo went on", folder)

    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "venv").exists()


UV = """\
#!/bin/sh
echo "uv $*" >>"{log}"
"""
# Debian's Python: without ensurepip until the package is there.
SPLIT_PYTHON = """\
#!/bin/sh
case "$*" in
    *"import ensurepip"*) [ -e "{folder}/npm" ] ;;
    *version_info*) echo 3.14 ;;
    --version) echo "Python 3.14.0" ;;
    *) echo "python $*" >>"{log}" ;;
esac
"""


def test_uv_makes_the_environment_when_python_has_no_ensurepip(bare, tmp_path):
    folder, _, log = bare
    debian(folder, log, 0)
    (folder / "rm").symlink_to(shutil.which("rm"))
    _executable(folder / "uv", UV.format(log=log))
    python, venv = tmp_path / "python3.13", tmp_path / "venv"
    _executable(python, "#!/bin/sh\nexit 1\n")
    (venv / "half").mkdir(parents=True)

    done = sourced(f"make_venv {python} {venv}; echo went on", folder)

    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    assert log.read_text() == f"uv venv --quiet --seed --python {python} {venv}\n"
    assert not venv.exists(), "what an interrupted set-up left is cleared first"


def test_uv_is_left_alone_when_python_has_ensurepip(bare, tmp_path):
    folder, _, log = bare
    _executable(folder / "uv", UV.format(log=log))

    done = sourced(f"make_venv {sys.executable} {tmp_path / 'venv'}", folder)

    assert done.returncode == 0, done.stderr
    assert log.read_text() == ""
    assert (tmp_path / "venv" / "bin" / "pip").is_file()


def test_a_uv_that_fails_stops_the_set_up(bare, tmp_path):
    folder, _, _ = bare
    (folder / "rm").symlink_to(shutil.which("rm"))
    _executable(folder / "uv", "#!/bin/sh\nexit 2\n")
    python = tmp_path / "python3.13"
    _executable(python, "#!/bin/sh\nexit 1\n")

    done = sourced(f"make_venv {python} {tmp_path / 'venv'}; echo went on", folder)

    assert (done.returncode, done.stdout) == (2, "")


def test_root_on_debian_gets_the_missing_part_of_python_from_debian(bare, tmp_path):
    folder, _, log = bare
    debian(folder, log, 0)
    python, venv = tmp_path / "python3.14", tmp_path / "venv"
    _executable(python, SPLIT_PYTHON.format(folder=folder, log=log))

    done = sourced(f"make_venv {python} {venv}", folder)

    assert done.returncode == 0, done.stderr
    update, install, made = log.read_text().splitlines()
    assert update.startswith("apt-get update")
    assert install.endswith(" python3.14-venv")
    assert made == f"python -m venv --clear {venv}"


@pytest.mark.parametrize(("user", "asks_debian"), [(0, True), (1000, False)])
def test_where_debian_has_no_ensurepip_to_give_its_name_is_told(bare, tmp_path, user, asks_debian):
    folder, _, log = bare
    debian(folder, log, user)
    python = tmp_path / "python3.13"
    _executable(python, "#!/bin/sh\nexit 1\n")

    done = sourced(f"make_venv {python} {tmp_path / 'venv'}; echo went on", folder)

    assert (done.returncode, done.stdout) == (1, "")
    assert "apt-get install python3-venv" in done.stderr
    assert ("apt-get" in log.read_text()) is asks_debian


# --- after the set-up -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["mpp-gateway", "mitmdump", "mitmweb"])
def test_the_commands_are_on_the_path_once_the_environment_is_activated(clone, command):
    done = subprocess.run(
        [BASH, "-c", f"source .venv/bin/activate && {command} --version"],
        cwd=clone,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("is_activated", [True, False])
def test_the_demo_prints_a_command_that_runs_as_printed(clone, is_activated):
    """Printed and tried in the clone, with the environment activated and without."""
    path = "/usr/bin:/bin"
    if is_activated:
        path = f"{clone / '.venv' / 'bin'}:{path}"
    environ = {"PATH": path, "HOME": "/nonexistent"}
    show = "from mpp_gateway.demo.show import _command; print(_command())"

    def shell(*command: str) -> str:
        return subprocess.run(
            command, cwd=clone, env=environ, capture_output=True, text=True, check=True
        ).stdout.strip()

    printed = shell(str(clone / ".venv" / "bin" / "python"), "-c", show)

    assert printed == ("mpp-gateway" if is_activated else ".venv/bin/mpp-gateway")
    assert shell(BASH, "-c", f"{printed} --version").startswith("mpp-gateway ")


SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_read_by_its_interpreter_without_a_mistake(script):
    first = script.read_text(errors="replace").split("\n", 1)[0]
    if "bash" in first or script.suffix == ".sh":
        subprocess.run([BASH, "-n", script], check=True, timeout=WAIT_S)
    else:
        compile(script.read_text(), str(script), "exec")
