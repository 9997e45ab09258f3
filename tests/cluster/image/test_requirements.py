"""The images install what their target and device need, and nothing else."""

import tomllib

import pytest

from cluster.image.install import debian_components
from cluster.image.requirements import EXTRAS, requirements
from tests.cluster.image.containers import local_directories, pip_conf
from tests.system import PROJECT_DIR

PROJECT = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]
DOCKERFILE = (PROJECT_DIR / "cluster/Dockerfile").read_text()


def names(target: str, device: str) -> set[str]:
    return {each.partition(">=")[0] for each in requirements(PROJECT, target, device)}


def test_service_on_a_cpu_is_the_base_install_with_offline_scoring():
    fleet = PROJECT["optional-dependencies"]["fleet"]
    assert requirements(PROJECT, "serve", "cpu") == [*PROJECT["dependencies"], *fleet]
    assert "torch" not in names("serve", "cpu")


def test_gpu_and_training_add_their_packages():
    assert {"torch", "nvidia-ml-py"} <= names("serve", "cuda")
    assert "mlflow" not in names("serve", "cuda")
    assert {"torch", "mlflow", "numba", "ray[data,train,tune]"} <= names("train", "cpu")
    assert "nvidia-ml-py" not in names("train", "cpu")


@pytest.mark.parametrize(("target", "device"), EXTRAS)
def test_no_requirement_is_the_project_itself(target: str, device: str):
    found = requirements(PROJECT, target, device)
    assert len(found) == len(set(found))
    assert not [each for each in found if each.startswith(PROJECT["name"])]


def test_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(SystemExit, match=r"serve cpu, serve cuda, .*found 'serve tpu'"):
        requirements(PROJECT, "serve", "tpu")


def test_lock_is_copied_before_the_sources():
    packages = DOCKERFILE.index("FROM pip AS serve-packages")
    assert DOCKERFILE.index("COPY constraints.txt") < packages
    assert packages < DOCKERFILE.index("COPY app app")
    runtime = DOCKERFILE.partition("AS runtime")[2]
    assert "pip" not in runtime.replace("/opt/pip", "")
    assert runtime.count("USER 10001:10001") == 2


def test_debian_packages_are_named_by_their_purl():
    (found,) = debian_components("libstdc++6\t12.2.0-14+deb12u1\tamd64\n", "12")
    assert found["purl"] == (
        "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12"
    )


def test_configuration_of_pip_reaches_the_build_without_its_paths_of_certificates(tmp_path):
    (tmp_path / "index/simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    settings = {
        "extra-index-url": f"file://{tmp_path}/index/simple https://index.example/simple",
        "find-links": f"{tmp_path}/wheels {tmp_path}/gone",
        "cert": "/etc/ssl/ca.crt",
        "user": "true",
    }
    assert local_directories(settings) == [tmp_path / "index", tmp_path / "wheels"]
    text = pip_conf(settings)
    assert "cert = /run/ca_bundle.crt" in text
    assert "/etc/ssl/ca.crt" not in text
    assert "user" not in text
