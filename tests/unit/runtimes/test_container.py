"""The settings that confine a container, as they go to the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cellyard_controller.runtimes import MIB, SandboxSpec, Template
from cellyard_controller.runtimes.docker.container import OPEN_NETWORK, container_settings

TEMPLATE = Template("small", "", memory_bytes=256 * MIB, cpus=0.5, pids=64, home_bytes=32 * MIB)
SPEC = SandboxSpec("sb-1", "controller-1", TEMPLATE, Path("/data/link/sb-1"), 64_001)


def test_a_sandbox_has_no_network_no_rights_and_no_writable_disk() -> None:
    settings = container_settings(SPEC, "image:1", seccomp="{}", private_cgroups=False)
    host = settings["HostConfig"]
    assert settings["User"] == "64001:64001"
    assert (host["NetworkMode"], host["CapDrop"], host["Privileged"]) == ("none", ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges:true", "seccomp={}"]
    assert (host["CapAdd"], host["PidMode"], host["UTSMode"], host["UsernsMode"]) == ([], "", "", "")
    assert host["ReadonlyRootfs"] is True
    assert host["IpcMode"] == "private"
    assert set(host["Tmpfs"]) == {"/home/sandbox", "/tmp", "/dev/shm"}
    assert all("nr_inodes=" in options for options in host["Tmpfs"].values())
    assert all({"nosuid", "nodev"} <= set(options.split(",")) for options in host["Tmpfs"].values())
    assert "noexec" in host["Tmpfs"]["/tmp"].split(",")
    assert "mode=0700" in host["Tmpfs"]["/home/sandbox"].split(",")


def test_only_the_open_policy_has_a_network() -> None:
    def mode(policy: str) -> str:
        template = replace(TEMPLATE, network=policy)
        settings = container_settings(replace(SPEC, template=template), "image:1", seccomp="{}", private_cgroups=False)
        return str(settings["HostConfig"]["NetworkMode"])

    assert (mode("allowlist"), mode("open")) == ("none", OPEN_NETWORK)


def test_the_links_folder_is_the_only_mount_and_read_only() -> None:
    host = container_settings(SPEC, "image:1", seccomp="{}", private_cgroups=False)["HostConfig"]
    (mount,) = host["Mounts"]
    assert (mount["Source"], mount["Target"], mount["ReadOnly"]) == ("/data/link/sb-1", "/run/cellyard", True)
    assert "Binds" not in host
    assert "VolumesFrom" not in host


def test_a_prepared_environment_is_one_more_mount_and_read_only() -> None:
    spec = replace(SPEC, environment=Path("/data/environments/t/n/site"))
    host = container_settings(spec, "image:1", seccomp="{}", private_cgroups=False)["HostConfig"]
    _, mount = host["Mounts"]
    assert (mount["Source"], mount["Target"]) == ("/data/environments/t/n/site", "/opt/environment")
    assert (mount["ReadOnly"], mount["BindOptions"]) == (True, {"Propagation": "rprivate"})


def test_limits_are_the_templates() -> None:
    host = container_settings(SPEC, "image:1", seccomp="{}", private_cgroups=False)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 256 * MIB
    assert host["NanoCpus"] == 500_000_000
    assert host["PidsLimit"] == 64
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]}
    assert limits["core"] == (0, 0)
    assert limits["fsize"] == ((32 + 256 + 64) * MIB,) * 2
    assert f"size={32 * MIB}" in host["Tmpfs"]["/home/sandbox"].split(",")
    assert "nr_inodes=4096" in host["Tmpfs"]["/home/sandbox"].split(",")


def test_labels_and_environment_tell_no_secret() -> None:
    settings = container_settings(SPEC, "image:1", seccomp="{}", private_cgroups=False)
    assert settings["Labels"] == {
        "cellyard.controller": "controller-1",
        "cellyard.sandbox": "sb-1",
        "cellyard.template": "small",
    }
    assert {variable.partition("=")[0] for variable in settings["Env"]} == {"HOME", "USER", "LOGNAME"}


def test_the_images_own_command_runs_unless_another_is_given() -> None:
    assert "Cmd" not in container_settings(SPEC, "image:1", seccomp="{}", private_cgroups=False)
    assert container_settings(SPEC, "image:1", seccomp="{}", private_cgroups=False, command=["true"])["Cmd"] == ["true"]


def test_a_cgroup_namespace_and_an_oci_runtime_are_asked_for_where_they_can_be_had() -> None:
    plain = container_settings(SPEC, "image:1", seccomp="{}", private_cgroups=False)["HostConfig"]
    assert "CgroupnsMode" not in plain
    assert "Runtime" not in plain
    strong = replace(SPEC, template=replace(TEMPLATE, oci_runtime="runsc"))
    host = container_settings(strong, "image:1", seccomp="{}", private_cgroups=True)["HostConfig"]
    assert (host["CgroupnsMode"], host["Runtime"]) == ("private", "runsc")
