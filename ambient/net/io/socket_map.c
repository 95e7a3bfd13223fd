/* Joins the two ends of a connection between an application and its tunnel, inside one pod; see
 * socket_map.py, which has the same structs. What differs between kernels is PLACE(name).
 */
#include <linux/bpf.h>

#define O_NONBLOCK 04000
#define LOOPBACK_IFINDEX 1

#define ntohl(n) __builtin_bswap32(n)
#define inline __attribute__((always_inline))
#define map(name) ((void *)PLACE(name))

static void *(*lookup)(void *, const void *) = (void *)BPF_FUNC_map_lookup_elem;
static long (*update)(void *, const void *, const void *, u64) = (void *)BPF_FUNC_map_update_elem;
static long (*delete)(void *, const void *) = (void *)BPF_FUNC_map_delete_elem;
static u64 (*socket_cookie)(void *) = (void *)BPF_FUNC_get_socket_cookie;
static u64 (*netns_cookie)(void *) = (void *)BPF_FUNC_get_netns_cookie;
static void *(*storage)(void *, void *, void *, u64) = (void *)BPF_FUNC_sk_storage_get;
static long (*put)(void *, void *, void *, u64) = (void *)BPF_FUNC_sock_hash_update;
static long (*redirect)(void *, void *, void *, u64) = (void *)BPF_FUNC_msg_redirect_hash;
static long (*peek)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_kernel;

/* What may be carried: bits of a member's value. */
#define FROM_APPLICATION 1
#define TO_APPLICATION 2

/* Indices of the map COUNTS. */
enum { JOINED, CROWDED, BLOCKING, LATE, ALONE };

/* Both ends of a TCP connection know these, and nobody else's have them: the cookie of a network
   namespace, the client's port, and both first sequence numbers. NAT changes none of them. */
struct handshake {
  u64 netns;
  u32 port;
  u32 client, server; /* next sequence numbers */
  u32 zero;
};

struct connection { /* by the cookie of the client's socket */
  u64 client, server; /* addresses of struct sock, only ever peeked at */
  u32 tunnel_is_client;
  u32 zero;
};

struct end { /* key of the map of sockets */
  u64 connection;
  u64 is_server;
};

/* What a send is decided by, kept with each socket. TCP is final: the receiver reads what was
   redirected ahead of what came by TCP, so going back would turn the order of bytes around. */
enum { UNDECIDED, REDIRECTED, TCP };
struct link {
  u64 listener; /* the listening socket that this one is, or came from */
  u64 connection;
  u64 own, peer;
  u32 is_server, is_tunnel;
  u32 first; /* next sequence number when it joined */
  u32 state;
  u32 allowed;
  u32 zero;
};

static inline void count(u32 index) {
  u64 *counter = lookup(map(COUNTS), &index);
  if (counter) __sync_fetch_and_add(counter, 1);
}

static inline u32 peek32(u64 base, u64 offset) {
  u32 value = 0;
  peek(&value, sizeof value, (void *)(base + offset));
  return value;
}

static inline u64 peek64(u64 base, u64 offset) {
  u64 value = 0;
  peek(&value, sizeof value, (void *)(base + offset));
  return value;
}

/* Whether the process reads it in the way that the map cannot imitate: waiting in the kernel.
   A socket that nobody has accepted yet has no file. */
static inline int blocks(u64 sock) {
  u64 socket = peek64(sock, PLACE(SOCK_SOCKET));
  u64 file = socket ? peek64(socket, PLACE(SOCKET_FILE)) : 0;
  return file && !(peek32(file, PLACE(FILE_FLAGS)) & O_NONBLOCK);
}

/* What the tunnel opens has one of its marks, depending on what redirects the pod; what it accepts
   has its listener's. A socket that the application accepts may have the mark for replies. */
static inline int opened_by_tunnel(struct bpf_sock *sk) {
  u32 mark = sk->mark & MASK;
  return mark == MARK_PROXY || mark == MARK_REPLY;
}

static inline int accepted_by_tunnel(struct bpf_sock *sk) { return (sk->mark & MASK) == MARK_PROXY; }

static inline struct link *join(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 connection,
                                u32 is_server, u32 is_tunnel) {
  struct link *link = storage(map(LINKS), sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  struct end end = {.connection = connection, .is_server = is_server};
  if (!link) return 0;
  link->connection = connection;
  link->own = (u64)sk;
  link->peer = 0;
  link->is_server = is_server;
  link->is_tunnel = is_tunnel;
  link->first = ops->snd_nxt;
  link->state = UNDECIDED;
  return put(ops, map(SOCKETS), &end, BPF_NOEXIST) ? 0 : link;
}

/* Whether the other end can be the partner that it looks for. What the tunnel opens to the pod's
   own address is an application's; what an application opens is captured unless it stays in the
   pod by its own choice. */
static inline int may_pair(struct connection *connection, u32 port) {
  u64 route = peek64(connection->client, PLACE(SOCK_ROUTE));
  u64 device = route ? peek64(route, PLACE(ROUTE_DEVICE)) : 0;
  int stays = device && peek32(device, PLACE(DEVICE_INDEX)) == LOOPBACK_IFINDEX;
  if (connection->tunnel_is_client) return stays;
  return !stays || port == PORT_OUTBOUND;
}

static inline void on_listen(struct bpf_sock *sk) {
  struct link *link = storage(map(LINKS), sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (link) link->listener = (u64)sk; /* sockets that it accepts inherit the value */
}

static inline void on_client(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 netns, u32 allowed) {
  u64 cookie = socket_cookie(ops);
  struct handshake key = {.netns = netns, .port = ops->local_port};
  struct connection connection = {.client = (u64)sk, .tunnel_is_client = opened_by_tunnel(sk)};
  struct link *link;
  key.client = ops->snd_nxt;
  key.server = ops->rcv_nxt;
  update(map(CONNECTIONS), &cookie, &connection, BPF_ANY);
  /* Loaded again from the map: a number now, and no longer a pointer of a kind that it forbids to
     reckon with. */
  struct connection *kept = lookup(map(CONNECTIONS), &cookie);
  if (!kept) return;
  if (!may_pair(kept, ntohl(ops->remote_port))) goto out;
  if (!kept->tunnel_is_client && blocks(kept->client)) {
    count(BLOCKING);
    goto out;
  }
  link = join(ops, sk, cookie, 0, connection.tunnel_is_client);
  if (!link) goto out;
  link->allowed = allowed;
  update(map(HANDSHAKES), &key, &cookie, BPF_ANY);
  return;
out:
  delete (map(CONNECTIONS), &cookie);
}

static inline void on_server(struct bpf_sock_ops *ops, struct bpf_sock *sk, u64 netns,
                             u32 allowed) {
  struct handshake key = {.netns = netns, .port = ntohl(ops->remote_port)};
  struct connection *connection;
  struct link *link;
  u64 *found, cookie;
  key.client = ops->rcv_nxt;
  key.server = ops->snd_nxt;
  found = lookup(map(HANDSHAKES), &key);
  if (!found) return;
  cookie = *found;
  delete (map(HANDSHAKES), &key);
  connection = lookup(map(CONNECTIONS), &cookie);
  if (!connection) return;
  if (accepted_by_tunnel(sk)) {
    if (connection->tunnel_is_client || ops->local_port != PORT_OUTBOUND) return;
  } else {
    if (!connection->tunnel_is_client) return;
    link = storage(map(LINKS), sk, 0, 0);
    if (!link || !link->listener || blocks(link->listener)) {
      count(BLOCKING);
      return;
    }
  }
  link = join(ops, sk, cookie, 1, !connection->tunnel_is_client);
  if (!link) return;
  link->allowed = allowed;
  link->peer = connection->client;
  connection->server = link->own;
  count(JOINED);
}

int sockops(struct bpf_sock_ops *ops) {
  struct bpf_sock *sk = ops->sk;
  u64 netns;
  u32 *allowed;
  if (!sk) return 1;
  if (ops->op == BPF_SOCK_OPS_TCP_LISTEN_CB) {
    on_listen(sk);
    return 1;
  }
  if (ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
      ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
    return 1;
  netns = netns_cookie(ops);
  allowed = lookup(map(MEMBERS), &netns);
  if (!allowed) return 1;
  if (ops->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
    on_client(ops, sk, netns, *allowed);
  else
    on_server(ops, sk, netns, *allowed);
  return 1;
}

/* Once for each direction, before its first byte: later it would be too late for the order. */
static inline u32 decide(struct link *link) {
  u64 cookie = link->connection;
  struct connection *connection = lookup(map(CONNECTIONS), &cookie);
  u32 own_direction = link->is_tunnel ? TO_APPLICATION : FROM_APPLICATION;
  if (!(link->allowed & own_direction)) return TCP;
  if (!link->peer && connection) link->peer = connection->server;
  if (!link->peer) {
    count(ALONE);
    return TCP;
  }
  if (peek32(link->own, PLACE(TCP_WRITE_SEQ)) != link->first) {
    count(LATE); /* something was sent while it connected, by way of TCP */
    return TCP;
  }
  return REDIRECTED;
}

int sk_msg(struct sk_msg_md *message) {
  struct bpf_sock *sk = message->sk;
  struct link *link;
  struct end other;
  u64 application;
  u32 size = message->size;
  if (!sk) return SK_PASS;
  link = storage(map(LINKS), sk, 0, 0);
  if (!link || link->state == TCP) return SK_PASS;
  if (link->state == UNDECIDED && (link->state = decide(link)) == TCP) return SK_PASS;
  application = link->is_tunnel ? link->peer : link->own;
  if (blocks(application) || peek64(application, PLACE(ICSK_ULP))) {
    link->state = TCP;
    count(BLOCKING);
    return SK_PASS;
  }
  /* The kernel bounds the receiver's queue by the memory of all of TCP only. */
  if (peek32(link->peer, PLACE(SOCK_QUEUED)) + size > peek32(link->peer, PLACE(SOCK_ROOM)) / 2) {
    link->state = TCP;
    count(CROWDED);
    return SK_PASS;
  }
  other.connection = link->connection;
  other.is_server = !link->is_server;
  if (redirect(message, map(SOCKETS), &other, BPF_F_INGRESS) != SK_PASS) link->state = TCP;
  return SK_PASS;
}
