/* Redirection of a pod's traffic to its tunnel without NAT; see bpf_programs.py.
 *
 * Addresses are 16 bytes, IPv4 ones mapped (::ffff:a.b.c.d), in network order; ports are in the
 * host's order. Maps and numbers that are known when a program is loaded are PLACE(name).
 */
#include <linux/bpf.h>

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOL_SOCKET 1
#define SO_MARK 36
#define SO_BINDTOIFINDEX 62
#define SO_ORIGINAL_DST 80
#define TCP 6
#define UDP 17
#define MPTCP 262
#define CLOSED 7
#define LISTENING 10
#define LOOPBACK_IFINDEX 1
#define PAGE 4096
#define SLOTS 4

/* What is captured in a pod: bits of struct pod's flags. */
#define OUTBOUND 1
#define INBOUND 2
#define DNS 4
#define IPV6 8
#define REPLIES 16

#define htons(n) __builtin_bswap16(n)
#define ntohs(n) __builtin_bswap16(n)
#define htonl(n) __builtin_bswap32(n)
#define inline __attribute__((always_inline))
/* Two branches that read two fields must not become one read of a computed address, which the
   verifier forbids. */
#define barrier() asm volatile("" ::: "memory")
#define map(name) ((void *)PLACE(name))

static void *(*lookup)(void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
static long (*update)(void *, const void *, const void *, u64) = (void *)BPF_FUNC_map_update_elem;

struct address {
  u32 part[4];
};

struct pod {
  u32 flags;
  struct address ip[2]; /* IPv4, IPv6; zero where it has none */
};

struct prefix { /* of an address that is the pod's own, in an LPM trie */
  u32 bits;
  u64 netns;
  struct address ip;
} __attribute__((packed));

struct end { /* one end of a redirected flow: the application's */
  u64 netns;
  struct address ip;
  u32 port;
  u32 protocol;
};

struct original { /* where it wanted to go */
  struct address ip;
  u32 port;
};

struct listener {
  u64 netns;
  u32 port;
  u32 slot;
};

struct flow { /* from a client to the application, by packets from outside or by the tunnel's */
  u64 netns;
  struct address client, ip;
  u32 client_port, port;
};

static inline int is_mapped(const struct address *ip) {
  return !ip->part[0] && !ip->part[1] && ip->part[2] == htonl(0xffff);
}

static inline void map_ipv4(struct address *ip, u32 packed) {
  ip->part[0] = ip->part[1] = 0;
  ip->part[2] = htonl(0xffff);
  ip->part[3] = packed;
}

static inline int is_any(const struct address *ip) {
  return !ip->part[0] && !ip->part[1] && !ip->part[3] && (!ip->part[2] || is_mapped(ip));
}

static inline int is_loopback(const struct address *ip) {
  if (is_mapped(ip)) return ip->part[3] == htonl(0x7f000001);
  return !ip->part[0] && !ip->part[1] && !ip->part[2] && ip->part[3] == htonl(1);
}

static inline int is_own(u64 netns, const struct address *ip) {
  struct prefix key = {.bits = 8 * (sizeof(u64) + sizeof(*ip)), .netns = netns, .ip = *ip};
  return is_any(ip) || lookup(map(OWN), &key) != 0;
}

/* The address in a hook's context, which the verifier lets be read by 4 bytes only. */
static inline void read_ip(struct bpf_sock_addr *ctx, int v6, struct address *ip) {
  if (!v6) return map_ipv4(ip, ctx->user_ip4);
  ip->part[0] = ctx->user_ip6[0];
  ip->part[1] = ctx->user_ip6[1];
  ip->part[2] = ctx->user_ip6[2];
  ip->part[3] = ctx->user_ip6[3];
}

static inline void write_ip(struct bpf_sock_addr *ctx, int v6, const struct address *ip) {
  if (!v6) {
    ctx->user_ip4 = ip->part[3];
    return;
  }
  ctx->user_ip6[0] = ip->part[0];
  ctx->user_ip6[1] = ip->part[1];
  ctx->user_ip6[2] = ip->part[2];
  ctx->user_ip6[3] = ip->part[3];
}

static inline void source_of(struct bpf_sock *sk, int v6, struct address *ip) {
  if (!v6) return map_ipv4(ip, sk->src_ip4);
  ip->part[0] = sk->src_ip6[0];
  ip->part[1] = sk->src_ip6[1];
  ip->part[2] = sk->src_ip6[2];
  ip->part[3] = sk->src_ip6[3];
}

/* Bind to the pod's address and this port (0: the kernel chooses when it connects). */
static inline long bind_source(struct bpf_sock_addr *ctx, int v6, struct address *ip, u16 port) {
  if (!v6) {
    struct {
      u16 family, port;
      u32 ip;
      u64 zero;
    } v4 = {AF_INET, htons(port), ip->part[3], 0};
    return bpf_bind(ctx, (void *)&v4, sizeof(v4));
  }
  struct {
    u16 family, port;
    u32 flow;
    struct address ip;
    u32 scope;
  } to = {AF_INET6, htons(port), 0, *ip, 0};
  return bpf_bind(ctx, (void *)&to, sizeof(to));
}

static inline void remember(u64 netns, u32 protocol, const struct address *ip, u32 port,
                            const struct original *to) {
  struct end key = {.netns = netns, .ip = *ip, .port = port, .protocol = protocol};
  update(map(ORIGINALS), &key, to, BPF_ANY);
}

static inline void forget(struct bpf_sock *sk) { bpf_sk_storage_delete(map(CLIENTS), sk); }

/* The port of the tunnel that takes what goes there; 0: it goes there itself. */
static inline u16 tunnel_port(const struct pod *pod, u32 protocol, u32 port) {
  if (pod->flags & DNS && port == 53) return PORT_DNS;
  return protocol == UDP ? 0 : PORT_OUTBOUND;
}

static inline u32 protocol_of(struct bpf_sock_addr *ctx) {
  if (ctx->type == SOCK_STREAM && (ctx->protocol == TCP || ctx->protocol == MPTCP)) return TCP;
  return ctx->type == SOCK_DGRAM && ctx->protocol == UDP ? UDP : 0;
}

/* Give a UDP socket its port now: the kernel would do it later, where nobody can note it. */
static inline u32 choose_port(struct bpf_sock_addr *ctx, int v6, struct address *ip) {
#pragma unroll
  for (int i = 0; i < 8; i++) {
    u16 port = 32768 + bpf_get_prandom_u32() % 28232;
    if (!bind_source(ctx, v6, ip, port)) return port;
  }
  return 0;
}

/* The source that the tunnel will see is noted, or made so that it can be. `tunnel` is its address on
 * the pod's loopback, and becomes the pod's own where only that brings the pod's source along.
 */
static inline void source(struct bpf_sock_addr *ctx, struct bpf_sock *sk, const struct pod *pod,
                          u64 netns, const struct original *to, struct address *tunnel, int v6,
                          int sending) {
  struct address ip, own = pod->ip[v6 && !is_mapped(&to->ip) ? 1 : 0];
  source_of(sk, v6, &ip);
  int udp = ctx->type == SOCK_DGRAM;
  u32 port = sk->src_port;
  if (is_any(&ip) && !is_any(&own)) {
    ip = own;
    if (sending) {
      if (v6) {
        ctx->msg_src_ip6[0] = own.part[0];
        ctx->msg_src_ip6[1] = own.part[1];
        ctx->msg_src_ip6[2] = own.part[2];
        ctx->msg_src_ip6[3] = own.part[3];
      } else {
        ctx->msg_src_ip4 = own.part[3];
      }
    } else if (!port) {
      if (udp)
        port = choose_port(ctx, v6, &ip);
      else
        bind_source(ctx, v6, &ip, 0);
    } else if (udp) {
      ip = *tunnel; /* a port without an address: the kernel will choose this one */
    } else {
      *tunnel = own;
    }
  }
  if (udp && port) remember(netns, UDP, &ip, port, to);
}

/* Whether a connection from outside has these addresses and ports, or is about to. */
static inline int is_taken(struct bpf_sock_addr *ctx, struct flow *flow) {
  if (lookup(map(ARRIVALS), flow)) return 1;
  struct bpf_sock_tuple tuple = {};
  u32 size = sizeof(tuple.ipv4);
  if (!is_mapped(&flow->ip)) {
    size = sizeof(tuple.ipv6);
    __builtin_memcpy(tuple.ipv6.saddr, &flow->client, sizeof(flow->client));
    __builtin_memcpy(tuple.ipv6.daddr, &flow->ip, sizeof(flow->ip));
    tuple.ipv6.sport = htons((u16)flow->client_port);
    tuple.ipv6.dport = htons((u16)flow->port);
  } else {
    tuple.ipv4.saddr = flow->client.part[3];
    tuple.ipv4.daddr = flow->ip.part[3];
    tuple.ipv4.sport = htons((u16)flow->client_port);
    tuple.ipv4.dport = htons((u16)flow->port);
  }
  struct bpf_sock *sk = bpf_skc_lookup_tcp(ctx, &tuple, size, BPF_F_CURRENT_NETNS, 0);
  if (!sk) return 0;
  int taken = sk->state != LISTENING;
  bpf_sk_release(sk);
  return taken;
}

/* The client's address with a port from which the client itself has no connection to there; the
 * kernel, which chooses where this finds none, would only know those that the pod has opened.
 */
static inline void choose_source(struct bpf_sock_addr *ctx, int v6, struct flow *flow) {
  u32 first = bpf_get_prandom_u32(), none = 0;
  for (u32 i = 0; i < 16; i++) {
    flow->client_port = DIAL_PORT + (first + i) % DIAL_PORTS;
    if (update(map(DIALS), flow, &none, BPF_NOEXIST)) continue; /* the tunnel's own */
    if (!is_taken(ctx, flow) && !bind_source(ctx, v6, &flow->client, flow->client_port))
      return;
    bpf_map_delete_elem(map(DIALS), flow);
  }
}

/* The tunnel dials the application: the answers find their way back by this mark. Where it speaks
 * from its client's address, only the device tells sk_lookup that this is no client from outside.
 */
static inline void dial(struct bpf_sock_addr *ctx, struct bpf_sock *sk, int v6, u64 netns,
                        u32 mark, const struct original *to) {
  struct flow flow = {.netns = netns, .ip = to->ip, .port = to->port};
  u32 loopback = LOOPBACK_IFINDEX, replies = (mark & ~MASK) | MARK_REPLY;
  source_of(sk, v6, &flow.client);
  bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &replies, sizeof(replies));
  if (is_own(netns, &flow.client)) return;
  bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &loopback, sizeof(loopback));
  if (!sk->src_port) choose_source(ctx, v6, &flow);
}

/* connect(2) and sendmsg(2) of a socket in an enrolled pod. */
static inline int redirect(struct bpf_sock_addr *ctx, int v6, int sending) {
  u64 netns = bpf_get_netns_cookie(ctx);
  struct pod *pod = lookup(map(PODS), &netns);
  struct bpf_sock *sk = ctx->sk;
  if (!pod || !sk) return 1;
  u32 protocol = protocol_of(ctx), mark = sk->mark, flags = pod->flags;
  struct original to = {.port = ntohs((u16)ctx->user_port)};
  read_ip(ctx, v6, &to.ip);
  if ((mark & MASK) == MARK_PROXY) {
    if (!sending && protocol == TCP && flags & REPLIES && is_own(netns, &to.ip))
      dial(ctx, sk, v6, netns, mark, &to);
    return 1;
  }
  int native = v6 && !is_mapped(&to.ip);
  u16 port = protocol ? tunnel_port(pod, protocol, to.port) : 0;
  if (!(flags & OUTBOUND) || !port || (native && !(flags & IPV6)) || is_own(netns, &to.ip)) {
    if (!sending) forget(sk);
    return 1;
  }
  struct original *kept =
      bpf_sk_storage_get(map(CLIENTS), sk, &to, BPF_SK_STORAGE_GET_F_CREATE);
  if (!kept) return 0; /* no memory: refused rather than direct */
  *kept = to;
  struct address tunnel = {.part = {0, 0, 0, htonl(1)}};
  /* Not where netfilter redirects to, 127.0.0.1 and ::1: a connection that it remembers from before
     would make it give this one another source port, and nobody could tell what the tunnel accepts. */
  if (native && port == PORT_OUTBOUND && !is_any(&pod->ip[1])) tunnel = pod->ip[1];
  if (!native) map_ipv4(&tunnel, htonl(port == PORT_OUTBOUND ? 0x7f000002 : 0x7f000001));
  source(ctx, sk, pod, netns, &to, &tunnel, v6, sending);
  write_ip(ctx, v6, &tunnel);
  ctx->user_port = htons(port);
  return 1;
}

int connect4(struct bpf_sock_addr *ctx) { return redirect(ctx, 0, 0); }
int connect6(struct bpf_sock_addr *ctx) { return redirect(ctx, 1, 0); }
int sendmsg4(struct bpf_sock_addr *ctx) { return redirect(ctx, 0, 1); }
int sendmsg6(struct bpf_sock_addr *ctx) { return redirect(ctx, 1, 1); }

/* The application is shown the address that it asked for. Datagrams may come from anybody, so only
 * what comes from the tunnel counts; a connection's peer is whom it was redirected to.
 */
static inline int show_original(struct bpf_sock_addr *ctx, int v6, int datagram) {
  u16 port = ntohs((u16)ctx->user_port);
  struct address ip;
  struct bpf_sock *sk = ctx->sk;
  if (!sk || (port != PORT_OUTBOUND && port != PORT_DNS)) return 1;
  read_ip(ctx, v6, &ip);
  if (datagram && !is_loopback(&ip)) return 1;
  struct original *to = bpf_sk_storage_get(map(CLIENTS), sk, 0, 0);
  if (to && (v6 || is_mapped(&to->ip))) {
    write_ip(ctx, v6, &to->ip);
    ctx->user_port = htons((u16)to->port);
  }
  return 1;
}

int recvmsg4(struct bpf_sock_addr *ctx) { return show_original(ctx, 0, 1); }
int recvmsg6(struct bpf_sock_addr *ctx) { return show_original(ctx, 1, 1); }
int getpeername4(struct bpf_sock_addr *ctx) { return show_original(ctx, 0, 0); }
int getpeername6(struct bpf_sock_addr *ctx) { return show_original(ctx, 1, 0); }

static inline void near_end(struct bpf_sock_ops *ops, struct address *ip) {
  if (ops->family == AF_INET) {
    map_ipv4(ip, ops->local_ip4);
    barrier();
    return;
  }
  ip->part[0] = ops->local_ip6[0];
  ip->part[1] = ops->local_ip6[1];
  ip->part[2] = ops->local_ip6[2];
  ip->part[3] = ops->local_ip6[3];
}

static inline void far_end(struct bpf_sock_ops *ops, struct address *ip) {
  if (ops->family == AF_INET) {
    map_ipv4(ip, ops->remote_ip4);
    barrier();
    return;
  }
  ip->part[0] = ops->remote_ip6[0];
  ip->part[1] = ops->remote_ip6[1];
  ip->part[2] = ops->remote_ip6[2];
  ip->part[3] = ops->remote_ip6[3];
}

/* The tunnel's connection to the application, with the port that it got; until it ends. */
static inline int note_dial(struct bpf_sock_ops *ops, struct bpf_sock *sk, int begins) {
  struct flow flow = {.netns = bpf_get_netns_cookie(ops)};
  u32 none = 0;
  /* The mark alone proves nothing: the pod may be another mesh's on this machine. */
  if (!lookup(map(PODS), &flow.netns)) return 1;
  near_end(ops, &flow.client);
  far_end(ops, &flow.ip);
  flow.client_port = ops->local_port;
  flow.port = htonl(ops->remote_port);
  if (!begins) {
    bpf_map_delete_elem(map(DIALS), &flow);
  } else if (!is_own(flow.netns, &flow.client)) {
    update(map(DIALS), &flow, &none, BPF_ANY);
    bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
  }
  return 1;
}

/* A connection has been accepted by the application from the tunnel, or by the tunnel from outside.
 * Where there is one of each with the same addresses and ports, each has its packets from its own
 * device only.
 */
static inline int tell_apart(struct bpf_sock_ops *ops, struct bpf_sock *sk) {
  u32 mark = sk->mark & MASK, loopback = LOOPBACK_IFINDEX, *device = &loopback;
  if (mark != MARK_PROXY && mark != MARK_REPLY) return 1;
  struct flow flow = {.netns = bpf_get_netns_cookie(ops)};
  near_end(ops, &flow.ip);
  far_end(ops, &flow.client);
  flow.client_port = htonl(ops->remote_port);
  flow.port = ops->local_port;
  if (!lookup(map(DIALS), &flow)) return 1;
  if (mark == MARK_PROXY) device = lookup(map(ARRIVALS), &flow);
  if (device) {
    u32 index = *device;
    bpf_setsockopt(ops, SOL_SOCKET, SO_BINDTOIFINDEX, &index, sizeof(index));
  }
  return 1;
}

static inline int note_connection(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 netns) {
  struct original *to = bpf_sk_storage_get(map(CLIENTS), sk, 0, 0);
  if (!to) return (sk->mark & MASK) == MARK_REPLY ? note_dial(ops, sk, 1) : 1;
  struct address ip;
  near_end(ops, &ip);
  remember(netns, TCP, &ip, ops->local_port, to);
  return 1;
}

static inline int note_listener(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 netns) {
  if (ops->local_port != PORT_PLAINTEXT || (sk->mark & MASK) != MARK_PROXY) return 1;
  if (!lookup(map(PODS), &netns)) return 1;
  struct listener key = {.netns = netns, .port = PORT_PLAINTEXT};
#pragma unroll
  for (int slot = 0; slot < SLOTS; slot++) {
    key.slot = slot;
    if (!bpf_sock_hash_update(ops, map(LISTENERS), &key, BPF_NOEXIST)) break;
  }
  return 1;
}

int sockops(struct bpf_sock_ops *ops) {
  struct bpf_sock *sk = ops->sk;
  if (!sk) return 1;
  if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
    return note_connection(ops, sk, bpf_get_netns_cookie(ops));
  if (ops->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
    return note_listener(ops, sk, bpf_get_netns_cookie(ops));
  if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) return tell_apart(ops, sk);
  if (ops->op == BPF_SOCK_OPS_STATE_CB && ops->args[1] == CLOSED &&
      (sk->mark & MASK) == MARK_REPLY)
    return note_dial(ops, sk, 0);
  return 1;
}

/* SO_ORIGINAL_DST of a connection that the tunnel has accepted, in netfilter's form. */
int getsockopt(struct bpf_sockopt *ctx) {
  struct bpf_sock *sk = ctx->sk;
  int v6 = ctx->level == 41;
  u8 *value = ctx->optval, *end = ctx->optval_end;
  if (ctx->optname != SO_ORIGINAL_DST || (ctx->level != 0 && !v6) || !sk ||
      (sk->mark & MASK) != MARK_PROXY)
    goto leave;
  u16 port = sk->src_port;
  if (port != PORT_OUTBOUND && port != PORT_DNS) goto leave;
  if (value + 16 > end) goto leave;
  /* Where the flow was redirected by NAT, netfilter has answered, and knows. */
  if (ctx->retval == 0 && ntohs(*(u16 *)(value + 2)) != port) goto leave;
  struct end key = {.netns = bpf_get_netns_cookie(ctx), .protocol = TCP};
  key.port = ntohs((u16)sk->dst_port);
  if (sk->family == AF_INET) {
    map_ipv4(&key.ip, sk->dst_ip4);
    barrier();
  } else {
    key.ip.part[0] = sk->dst_ip6[0];
    key.ip.part[1] = sk->dst_ip6[1];
    key.ip.part[2] = sk->dst_ip6[2];
    key.ip.part[3] = sk->dst_ip6[3];
  }
  struct original *to = lookup(map(ORIGINALS), &key);
  if (!to || is_mapped(&to->ip) == v6) goto leave;
  *(u16 *)(value + 2) = htons((u16)to->port);
  if (v6) {
    if (value + 28 > end) goto leave;
    *(u16 *)value = AF_INET6;
    *(u32 *)(value + 4) = 0;
    *(struct address *)(value + 8) = to->ip;
    *(u32 *)(value + 24) = 0;
    ctx->optlen = 28;
  } else {
    *(u16 *)value = AF_INET;
    *(u32 *)(value + 4) = to->ip.part[3];
    *(u32 *)(value + 8) = 0;
    *(u32 *)(value + 12) = 0;
    ctx->optlen = 16;
  }
  ctx->retval = 0;
  return 1;
leave:
  if (ctx->optlen > PAGE) ctx->optlen = 0; /* an answer that is too long to be looked at stays */
  return 1;
}

/* Connections from outside go to the tunnel's listener, whatever address and port they are for. */
int sk_lookup(struct bpf_sk_lookup *ctx) {
  u64 netns = PLACE(NETNS);
  if (ctx->protocol != TCP || ctx->ingress_ifindex <= LOOPBACK_IFINDEX) return SK_PASS;
  if (ctx->local_port == PORT_HBONE) return SK_PASS;
  struct pod *pod = lookup(map(PODS), &netns);
  if (!pod || !(pod->flags & INBOUND)) return SK_PASS;
  struct flow flow = {.netns = netns};
  struct address from;
  if (ctx->family == AF_INET) {
    map_ipv4(&from, ctx->remote_ip4);
    if (from.part[3] == htonl(PROBE_4)) return SK_PASS;
    map_ipv4(&flow.ip, ctx->local_ip4);
    barrier();
  } else {
    if (!(pod->flags & IPV6)) return SK_PASS;
    from.part[0] = ctx->remote_ip6[0];
    from.part[1] = ctx->remote_ip6[1];
    from.part[2] = ctx->remote_ip6[2];
    from.part[3] = ctx->remote_ip6[3];
    if (from.part[0] == htonl(PROBE_6_0) && from.part[1] == htonl(PROBE_6_1) &&
        from.part[2] == htonl(PROBE_6_2) && from.part[3] == htonl(PROBE_6_3))
      return SK_PASS;
    flow.ip.part[0] = ctx->local_ip6[0];
    flow.ip.part[1] = ctx->local_ip6[1];
    flow.ip.part[2] = ctx->local_ip6[2];
    flow.ip.part[3] = ctx->local_ip6[3];
  }
  /* From the pod to itself: no packet from outside gets in with the pod's own address. */
  if (is_own(netns, &from)) return SK_PASS;
  u32 device = ctx->ingress_ifindex;
  flow.client = from;
  flow.client_port = ntohs((u16)ctx->remote_port);
  flow.port = ctx->local_port;
  update(map(ARRIVALS), &flow, &device, BPF_ANY);
  struct listener key = {.netns = netns, .port = PORT_PLAINTEXT};
#pragma unroll
  for (int slot = 0; slot < SLOTS; slot++) {
    key.slot = slot;
    struct bpf_sock *sk = lookup(map(LISTENERS), &key);
    if (sk) {
      long refused = bpf_sk_assign((void *)ctx, sk, 0);
      bpf_sk_release(sk);
      if (!refused) return SK_PASS;
      /* It is closing at this moment; its successor listens already. */
    }
  }
  return SK_DROP; /* no tunnel: refused, as where nobody listens */
}
