"""Code that a YAML names: found where it lies, refused where it could be another file's."""

import sys
from pathlib import Path

import pytest

from greenlab.errors import ConfigError
from greenlab.targets import import_from, resolve


@pytest.fixture
def my_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for group in ("model", "dataset", "model/deep"):
        (tmp_path / "my_conf" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "my_conf" / group / "own.yaml").write_text("_target_: whatever\n")
    return tmp_path / "my_conf"


def write(path: Path, answer: int) -> None:
    path.write_text(f"def build():\n    return {answer}\n")


@pytest.mark.parametrize("group", ["model", "dataset", "model/deep"])
def test_a_file_beside_its_yaml_is_found(my_conf: Path, group: str) -> None:
    name = f"beside_{group.replace('/', '_')}"
    write(my_conf / group / f"{name}.py", 7)
    import_from([my_conf])
    assert resolve("model._target_", f"{name}.build")() == 7


def test_a_package_beside_its_yaml_is_found(my_conf: Path) -> None:
    (my_conf / "model" / "own_package").mkdir()
    write(my_conf / "model" / "own_package" / "__init__.py", 8)
    import_from([my_conf])
    assert resolve("model._target_", "own_package.build")() == 8


@pytest.mark.parametrize("elsewhere", ["dataset/twice.py", "../twice.py"])
def test_a_name_that_two_files_have_is_refused_with_both(
    my_conf: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(my_conf.parent))  # as the working directory is
    write(my_conf / "model" / "twice.py", 1)
    write(my_conf / elsewhere, 2)
    import_from([my_conf])
    with pytest.raises(
        ConfigError, match=r"model\._target_=twice\.build: there is more"
    ) as refusal:
        resolve("model._target_", "twice.build")
    assert str(my_conf / "model" / "twice.py") in str(refusal.value)
    assert str((my_conf / elsewhere).resolve()) in str(refusal.value)


@pytest.mark.parametrize("name", ["code", "math", "torch"])
def test_a_file_with_a_library_s_name_is_refused(my_conf: Path, name: str) -> None:
    write(my_conf / "model" / f"{name}.py", 1)
    import_from([my_conf])
    with pytest.raises(ConfigError, match="a name of its own"):
        resolve("model._target_", f"{name}.build")


def test_the_same_folder_twice_is_no_second_file(my_conf: Path, tmp_path: Path) -> None:
    write(my_conf / "model" / "once.py", 3)
    (tmp_path / "link").symlink_to(my_conf)
    import_from([my_conf, tmp_path / "link", my_conf])
    assert resolve("model._target_", "once.build")() == 3


def test_a_function_is_meant_where_a_module_has_its_name() -> None:
    import torchvision

    found = resolve("model._target_", "torchvision.models.googlenet")
    assert found is torchvision.models.googlenet
    assert resolve("model._target_", "greenlab.models.lenet").__name__ == "lenet"


def test_a_file_that_ends_python_is_refused(my_conf: Path) -> None:
    (my_conf / "model" / "ender.py").write_text("raise SystemExit(3)\n")
    import_from([my_conf])
    with pytest.raises(ConfigError, match="cannot be imported: SystemExit: 3"):
        resolve("model._target_", "ender.build")
