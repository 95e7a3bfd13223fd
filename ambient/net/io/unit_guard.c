/* The tunnel's ports in the node's own network, where it serves a systemd unit: for this node only.
 * From outside they are refused as if nobody listened; see bpf_unit.py.
 */
#include <linux/bpf.h>

#define LOOPBACK_IFINDEX 1

int guard(struct bpf_sk_lookup *ctx) {
  if (ctx->ingress_ifindex == LOOPBACK_IFINDEX) return SK_PASS;
  switch (ctx->local_port) {
    case PORT_OUTBOUND:
    case PORT_PLAINTEXT:
    case PORT_HBONE:
    case PORT_DNS:
      return SK_DROP;
  }
  return SK_PASS;
}
