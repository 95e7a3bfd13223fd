from __future__ import annotations

import pytest

from ambient.net.core.bpf_code import FIRST_PLACE, MapFd, bind, places
from ambient.net.io import bpf_compiler
from ambient.net.io.bpf import (
    AttachType,
    BpfError,
    Map,
    MapType,
    Program,
    ProgramType,
)
from tests.bpf import INSTALL_HINT

pytestmark = pytest.mark.skipif(
    not bpf_compiler.installed(), reason=f"bcc is not installed ({INSTALL_HINT})"
)

SOURCE = """
#include <linux/bpf.h>
static void *(*look)(u64, const void *) = (void *) BPF_FUNC_map_lookup_elem;
int choose(struct bpf_sock_addr *ctx) {
  u32 key = 0;
  return look(PLACE(MAP), &key) ? 1 : 0;
}
int other(struct bpf_sock_addr *ctx) { return 1; }
"""


def test_each_function_is_compiled_without_kernel_headers() -> None:
    code = bpf_compiler.compile_c(SOURCE, ("choose", "other"), places(("MAP",)))
    assert set(code) == {"choose", "other"}
    assert all(len(function) % 8 == 0 and function for function in code.values())


def test_a_map_can_be_put_into_what_was_compiled() -> None:
    code = bpf_compiler.compile_c(SOURCE, ("choose",), places(("MAP",)))["choose"]
    try:
        made = Map.create(MapType.ARRAY, "one", (4, 4), 1)
    except PermissionError:
        pytest.skip("loading needs root")
    with made:
        bound = bind(code, {FIRST_PLACE: MapFd(made.fd)})
        kind = ProgramType.CGROUP_SOCK_ADDR
        with Program.load(kind, "choose", bound, AttachType.CONNECT4) as program:
            assert program.fd >= 0


def test_an_error_in_the_source_is_shown() -> None:
    with pytest.raises(BpfError, match="expected ';'"):
        bpf_compiler.compile_c("int f(void *ctx) { return 1 }", ("f",), {})


def test_without_bcc_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf_compiler, "_COMMAND", ("-c", "raise SystemExit('no bcc')"))
    with pytest.raises(BpfError, match="no bcc") as refused:
        bpf_compiler.compile_c("", (), {})
    assert "python3-bpfcc" in refused.value.hint
