"""The installer against a program that wants the folder for itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from cni_plugin.io import folder_watch
from cni_plugin.io.installer import RIVAL_TIMES, Installer
from cni_plugin.settings import Settings

CHAIN = json.dumps({"name": "pods", "plugins": [{"type": "cilium-cni"}]})


async def until(condition: object) -> None:
    assert callable(condition)
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.005)


async def test_pain_06_a_rival_is_named_once_and_not_answered_hotly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cilium that puts its own file back whenever it has changed."""
    monkeypatch.setattr(folder_watch, "LOOK_S", 0.2)
    monkeypatch.setattr("cni_plugin.io.installer.RIVAL_S", 60)
    file = tmp_path / "05-cilium.conflist"
    file.write_text(CHAIN)
    installer = Installer(Settings(node_name="node", cni_net_dir=str(tmp_path), cni_bin_dir=""))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(installer.run)
        for number in range(RIVAL_TIMES + 1):
            await until(lambda: "ambient-cni" in file.read_text())
            if number < RIVAL_TIMES:
                assert not installer.rival, "others change it too, now and then"
                put_back(file)
        await until(lambda: installer.rival)
        assert installer.rival.startswith("Cilium takes the plugin out")
        assert "cni.exclusive=false" in installer.rival
        put_back(file)
        answers = installer.results["SUCCESS"]
        with trio.move_on_after(1):
            while True:  # a rival that never tires
                if "ambient-cni" in file.read_text():
                    put_back(file)
                await trio.sleep(0.001)
        assert installer.results["SUCCESS"] - answers <= 10, "one answer in each of its pauses"
        await until(lambda: "ambient-cni" in file.read_text())
        nursery.cancel_scope.cancel()
    assert capsys.readouterr().out.count("cni.rival") == 1


async def test_a_file_that_cilium_has_put_aside_names_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_watch, "LOOK_S", 0.2)
    (tmp_path / "05-cilium.conflist").write_text(CHAIN)
    settings = Settings(
        node_name="node", cni_net_dir=str(tmp_path), cni_bin_dir="", istio_owned_cni_config=True
    )
    installer, own = Installer(settings), tmp_path / "02-istio-cni.conflist"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(installer.run)
        await until(own.exists)
        assert not installer.rival
        own.rename(tmp_path / "02-istio-cni.conflist.cilium_bak")
        await until(lambda: installer.rival)
        assert installer.rival.startswith("Cilium takes the plugin out")
        await until(lambda: sorted(os.listdir(tmp_path)) == [own.name, "05-cilium.conflist"])
        nursery.cancel_scope.cancel()


def put_back(file: Path) -> None:
    """In one step, as Cilium does."""
    temporary = file.with_name(".rival")
    temporary.write_text(CHAIN)
    temporary.replace(file)
