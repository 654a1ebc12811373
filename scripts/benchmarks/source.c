/* A simulated model server that is never the bottleneck: streams with a known schedule, written on time, every instant
 * kept. No engine: a first token after a drawn time, then one token each step, on a phase of each stream's own or, with
 * `steps`, all streams together on one grid (real engines send a step's tokens together).
 *
 *     source CANNED TRUTH STEP_US FIRST_US DEVIATION_US phases|steps      prints its port; SIGTERM writes TRUTH
 *
 * CANNED holds the control plane's answers: lines "METHOD PATH TYPE LENGTH", each followed by LENGTH bytes.
 * Requests ask for their length with num_predict, max_tokens or max_completion_tokens, and name themselves by a nonce
 * in square brackets at the start of the prompt. Instants are CLOCK_MONOTONIC ns; a token's is taken just after its
 * write returned, a request's is the kernel's stamp of its last bytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MOST_FDS 65536
#define REQUEST_SIZE 65536
#define DEFAULT_TOKENS 100
#define NONCE_SIZE 24

enum wire { NDJSON, SSE_CHAT, SSE_TEXT };

struct truth { /* one request; `at` holds `tokens` instants */
    char nonce[NONCE_SIZE];
    int asked, sent, whole;
    int64_t arrived, due, end, late_most, late_sum, *at;
};

struct peer { /* one connection and the request that it carries */
    int have, busy, prompt_tokens;
    enum wire wire;
    unsigned life; /* changes when the descriptor is closed or reused: older ticks are void */
    struct truth *truth;
    char *request;
};

struct tick {
    int64_t due;
    int fd;
    unsigned life;
};

struct canned {
    char method[8], path[64], type[64];
    int size;
    char *body;
};

static struct peer peers[MOST_FDS];
static struct tick *heap;
static int heap_size, heap_room;
static struct truth **log_of;
static int logged, log_room;
static struct canned canned[64];
static int canned_count, epoll;
static int64_t step_ns, first_ns, deviation_ns;
static int aligned;
static volatile sig_atomic_t stopping;
static uint64_t random_state = 88172645463325252ULL;
static const char *words[] = {" the", " river", " had", " been", " high", " since", " morning", ",", " and", " nobody", " slept"};

static void stop(int number) {
    (void)number;
    stopping = 1;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double uniform(void) { /* xorshift64*: the same draws every time */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return ((random_state * 2685821657736338717ULL >> 11) + 0.5) / 9007199254740992.0;
}

static int64_t draw_first(void) {
    double normal = sqrt(-2 * log(uniform())) * cos(2 * M_PI * uniform());
    int64_t wait = first_ns + (int64_t)(deviation_ns * normal);
    return wait > 0 ? wait : 0;
}

/* -- the ticks that are due, soonest first ------------------------------------------------------------------------ */

static void push(int64_t due, int fd) {
    if (heap_size == heap_room && !(heap = realloc(heap, (heap_room = heap_room * 2 + 1024) * sizeof *heap)))
        die("realloc");
    int i = heap_size++;
    for (; i && heap[(i - 1) / 2].due > due; i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = (struct tick){due, fd, peers[fd].life};
}

static struct tick pop(void) {
    struct tick top = heap[0], last = heap[--heap_size];
    int i = 0, child;
    while ((child = 2 * i + 1) < heap_size) {
        child += child + 1 < heap_size && heap[child + 1].due < heap[child].due;
        if (heap[child].due >= last.due)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

/* -- bytes -------------------------------------------------------------------------------------------------------- */

static const char *created_at(void) { /* as Go writes it, nanoseconds and all */
    static char text[40];
    static time_t second;
    int64_t wall = clock_ns(CLOCK_REALTIME);
    if (wall / 1000000000 != second) {
        second = wall / 1000000000;
        struct tm utc;
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S.000000000Z", gmtime_r(&second, &utc));
    }
    char *digit = text + 28;
    for (int64_t rest = wall % 1000000000, i = 0; i < 9; i++, rest /= 10)
        *digit-- = '0' + rest % 10;
    return text;
}

static int token_line(char *to, const struct peer *peer, int sent) {
    const char *word = words[sent % (sizeof words / sizeof *words)];
    if (peer->wire == NDJSON)
        return sprintf(to, "{\"model\":\"llama3.2:1b\",\"created_at\":\"%s\",\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"done\":false}\n", created_at(), word);
    if (peer->wire == SSE_TEXT)
        return sprintf(to, "data: {\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1,\"choices\":[{\"text\":\"%s\",\"index\":0,\"finish_reason\":null}],\"model\":\"llama3.2:1b\"}\n\n", word);
    return sprintf(to, "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"llama3.2:1b\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":null}]}\n\n", word);
}

static int end_line(char *to, const struct peer *peer) {
    const struct truth *truth = peer->truth;
    int64_t total = clock_ns(CLOCK_MONOTONIC) - truth->arrived, prefill = truth->at[0] - truth->arrived;
    if (peer->wire == NDJSON)
        return sprintf(to, "{\"model\":\"llama3.2:1b\",\"created_at\":\"%s\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"length\",\"total_duration\":%ld,\"load_duration\":1,\"prompt_eval_count\":%d,\"prompt_eval_duration\":%ld,\"eval_count\":%d,\"eval_duration\":%ld}\n",
                       created_at(), (long)total, peer->prompt_tokens, (long)prefill, truth->sent, (long)(total - prefill));
    const char *kind = peer->wire == SSE_TEXT ? "\"text\":\"\"" : "\"delta\":{\"content\":\"\"}";
    const char *object = peer->wire == SSE_TEXT ? "text_completion" : "chat.completion.chunk";
    int size = sprintf(to, "data: {\"id\":\"1\",\"object\":\"%s\",\"created\":1,\"model\":\"llama3.2:1b\",\"choices\":[{\"index\":0,%s,\"finish_reason\":\"length\"}]}\n\n", object, kind);
    return size + sprintf(to + size, "data: {\"id\":\"1\",\"object\":\"%s\",\"created\":1,\"model\":\"llama3.2:1b\",\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\ndata: [DONE]\n\n",
                          object, peer->prompt_tokens, truth->sent, peer->prompt_tokens + truth->sent);
}

static int as_chunk(char *to, const char *body, int size) {
    int head = sprintf(to, "%x\r\n", size);
    memcpy(to + head, body, size);
    memcpy(to + head + size, "\r\n", 2);
    return head + size + 2;
}

/* -- connections -------------------------------------------------------------------------------------------------- */

static void drop(int fd) {
    struct peer *peer = &peers[fd];
    peer->life++;
    peer->have = peer->busy = 0;
    free(peer->request);
    peer->request = NULL;
    close(fd);
}

static int put(int fd, const char *data, int size) {
    if (send(fd, data, size, MSG_NOSIGNAL) == size)
        return 1;
    drop(fd); /* gone, or so far behind that its socket is full: its request stays unfinished in the log */
    return 0;
}

static void tick(struct tick due) {
    struct peer *peer = &peers[due.fd];
    struct truth *truth = peer->truth;
    char line[1024], out[4096];
    if (peer->life != due.life)
        return;
    int64_t late = clock_ns(CLOCK_MONOTONIC) - due.due;
    int size = 0;
    truth->late_sum += late;
    truth->late_most = late > truth->late_most ? late : truth->late_most;
    if (!truth->sent)
        size = sprintf(out, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\nLoadtest-Simulated: profile=metronome; speed=1\r\n\r\n",
                       peer->wire == NDJSON ? "application/x-ndjson" : "text/event-stream");
    size += as_chunk(out + size, line, token_line(line, peer, truth->sent));
    if (!put(due.fd, out, size))
        return;
    truth->at[truth->sent++] = clock_ns(CLOCK_MONOTONIC);
    if (truth->sent < truth->asked) {
        push(due.due + step_ns, due.fd);
        return;
    }
    size = as_chunk(out, line, end_line(line, peer));
    size += sprintf(out + size, "0\r\n\r\n");
    peer->busy = 0;
    if (!put(due.fd, out, size))
        return;
    truth->end = clock_ns(CLOCK_MONOTONIC);
    truth->whole = 1;
}

static int asked_tokens(const char *body) {
    static const char *keys[] = {"\"num_predict\":", "\"max_tokens\":", "\"max_completion_tokens\":"};
    for (int i = 0; i < 3; i++) {
        const char *at = strstr(body, keys[i]);
        if (at && atoi(at + strlen(keys[i])) > 0)
            return atoi(at + strlen(keys[i]));
    }
    return DEFAULT_TOKENS;
}

static void begin(int fd, const char *path, const char *body, int64_t arrived) {
    struct peer *peer = &peers[fd];
    struct truth *truth = calloc(1, sizeof *truth);
    const char *prompt = strstr(body, "\"content\":"), *nonce = prompt ? strchr(prompt, '[') : NULL;
    if (nonce && strcspn(nonce, "]") < NONCE_SIZE - 1)
        memcpy(truth->nonce, nonce, strcspn(nonce, "]") + 1);
    if (strspn(truth->nonce, "[]0123456789abcdef") != strlen(truth->nonce))
        truth->nonce[0] = 0;
    peer->prompt_tokens = 16;
    for (const char *at = prompt ? prompt : body; *at; at++) /* a word or a full stop is a token of our prompts */
        peer->prompt_tokens += *at == ' ' || *at == '.';
    peer->wire = strncmp(path, "/v1", 3) ? NDJSON : strstr(path, "chat") ? SSE_CHAT : SSE_TEXT;
    peer->truth = truth;
    peer->busy = 1;
    truth->arrived = arrived;
    truth->asked = asked_tokens(body);
    truth->at = malloc(truth->asked * sizeof *truth->at);
    if (logged == log_room && !(log_of = realloc(log_of, (log_room = log_room * 2 + 1024) * sizeof *log_of)))
        die("realloc");
    log_of[logged++] = truth;
    int64_t due = arrived + draw_first();
    truth->due = aligned ? (due + step_ns - 1) / step_ns * step_ns : due;
    push(truth->due, fd);
}

static void answer(int fd, char *request, char *body, int64_t arrived) {
    char method[8] = "", path[64] = "", out[REQUEST_SIZE];
    sscanf(request, "%7s %63[^ ?]", method, path);
    if (!strcmp(method, "POST") && (!strcmp(path, "/api/chat") || !strcmp(path, "/v1/chat/completions") || !strcmp(path, "/v1/completions"))) {
        begin(fd, path, body, arrived);
        return;
    }
    for (int i = 0; i < canned_count; i++)
        if (!strcmp(canned[i].method, method) && !strcmp(canned[i].path, path)) {
            int size = sprintf(out, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nLoadtest-Simulated: profile=metronome; speed=1\r\n\r\n", canned[i].type, canned[i].size);
            memcpy(out + size, canned[i].body, canned[i].size);
            put(fd, out, size + canned[i].size);
            return;
        }
    static const char missing[] = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nnot found";
    put(fd, missing, sizeof missing - 1);
}

static int64_t arrival_of(struct msghdr *message) { /* the kernel's stamp on the monotonic clock, else now */
    int64_t mono = clock_ns(CLOCK_MONOTONIC), wall = clock_ns(CLOCK_REALTIME);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec stamp;
            memcpy(&stamp, CMSG_DATA(c), sizeof stamp);
            return mono - (wall - (stamp.tv_sec * 1000000000LL + stamp.tv_nsec));
        }
    return mono;
}

static void readable(int fd) {
    struct peer *peer = &peers[fd];
    char control[64];
    if (!peer->request && !(peer->request = malloc(REQUEST_SIZE)))
        die("malloc");
    struct iovec into = {peer->request + peer->have, REQUEST_SIZE - 1 - peer->have};
    struct msghdr message = {.msg_iov = &into, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(fd, &message, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        drop(fd);
        return;
    }
    peer->have += got;
    peer->request[peer->have] = 0;
    char *body = strstr(peer->request, "\r\n\r\n"), *length = body ? strcasestr(peer->request, "\r\nContent-Length:") : NULL;
    if (!body)
        return;
    body += 4;
    int size = length && length < body ? atoi(length + 17) : 0;
    if (peer->have < body - peer->request + size)
        return;
    peer->have = 0; /* no client here sends a second request before the first is answered */
    answer(fd, peer->request, body, arrival_of(&message));
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (fd >= MOST_FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

/* -- start and end ------------------------------------------------------------------------------------------------ */

static void load_canned(const char *path) {
    FILE *file = fopen(path, "r");
    struct canned *next = canned;
    if (!file)
        die(path);
    while (canned_count < 64 && fscanf(file, "%7s %63s %63s %d", next->method, next->path, next->type, &next->size) == 4) {
        fgetc(file); /* the line's end */
        next->body = malloc(next->size + 1);
        if (next->size > REQUEST_SIZE / 2 || fread(next->body, 1, next->size, file) != (size_t)next->size)
            die("canned answers");
        next = &canned[++canned_count];
    }
    fclose(file);
}

static void write_truth(const char *path) {
    FILE *file = fopen(path, "w");
    if (!file)
        die(path);
    for (int i = 0; i < logged; i++) {
        struct truth *t = log_of[i];
        fprintf(file, "{\"prompt\":\"%s\",\"outcome\":\"%s\",\"output_tokens\":%d,\"late_max_us\":%.1f,\"late_mean_us\":%.1f,\"monotonic_ns\":{\"arrived\":%ld,\"first_due\":%ld,\"first_token\":%ld,\"last_token\":%ld,\"end\":%ld},\"chunks_us\":[",
                t->nonce, t->whole ? "ok" : "cancelled", t->sent, t->late_most / 1e3, t->sent ? t->late_sum / 1e3 / t->sent : 0.0, (long)t->arrived, (long)t->due, (long)(t->sent ? t->at[0] : 0), (long)(t->sent ? t->at[t->sent - 1] : 0), (long)t->end);
        for (int k = 0; k < t->sent; k++)
            fprintf(file, "%s%ld", k ? "," : "", (long)((t->at[k] - t->at[0]) / 1000));
        fprintf(file, "]}\n");
    }
    fclose(file);
}

static int listen_loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) || listen(fd, 4096))
        die("listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("listening on http://127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 7)
        return fprintf(stderr, "source CANNED TRUTH STEP_US FIRST_US DEVIATION_US phases|steps\n"), 2;
    struct rlimit files;
    struct epoll_event events[256], event = {.events = EPOLLIN};
    load_canned(argv[1]);
    step_ns = atol(argv[3]) * 1000, first_ns = atol(argv[4]) * 1000, deviation_ns = atol(argv[5]) * 1000;
    aligned = !strcmp(argv[6], "steps");
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1UL); /* waits end on time, not up to 50 µs later */
    epoll = epoll_create1(0);
    int listener = event.data.fd = listen_loopback();
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    while (!stopping) {
        int64_t wait = heap_size ? heap[0].due - clock_ns(CLOCK_MONOTONIC) : 100000000;
        struct timespec left = {wait > 0 ? wait / 1000000000 : 0, wait > 0 ? wait % 1000000000 : 0};
        int ready = epoll_pwait2(epoll, events, 256, &left, NULL);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                accept_all(listener);
            else
                readable(events[i].data.fd);
        }
        int64_t now = clock_ns(CLOCK_MONOTONIC);
        while (heap_size && heap[0].due <= now)
            tick(pop());
    }
    write_truth(argv[2]);
    return 0;
}
