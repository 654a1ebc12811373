/* The floor: the least that any client can do with this work. A bare epoll loop that connects every stream, sends the
 * requests it is given, reads, keeps nothing, and looks only for the end of an answer.
 *
 *     floor PORT STREAMS REQUESTS < FILE      FILE: each request as a 4-byte length and its bytes, stream after stream
 *
 * Prints one JSON line: CPU of the streaming part (user and system, this thread), reads, and TTFT by user-space clock.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define END "\r\n0\r\n\r\n"
#define END_SIZE 7

struct stream {
    int fd, next, waiting; /* next: its next request; waiting: no byte of the answer has come yet */
    char tail[END_SIZE];   /* the answer's last bytes so far, for an end that is cut between two reads */
    int64_t sent;
};

struct request {
    const char *bytes;
    uint32_t size;
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

static char *read_all(size_t *size) {
    size_t room = 1 << 20;
    char *data = malloc(room);
    ssize_t got;
    while (data && (got = read(0, data + *size, room - *size)) > 0) {
        *size += got;
        if (*size == room)
            data = realloc(data, room *= 2);
    }
    return data;
}

static int open_socket(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void send_request(struct stream *stream, const struct request *request) {
    if (send(stream->fd, request->bytes, request->size, 0) != (ssize_t)request->size)
        die("send"); /* a request of a few kB fits an empty socket buffer */
    stream->sent = now_ns();
    stream->waiting = 1;
    memset(stream->tail, 0, END_SIZE);
}

static int ends(struct stream *stream, const char *data, ssize_t size) {
    if (size >= END_SIZE) {
        memcpy(stream->tail, data + size - END_SIZE, END_SIZE);
    } else {
        memmove(stream->tail, stream->tail + size, END_SIZE - size);
        memcpy(stream->tail + END_SIZE - size, data, size);
    }
    return memcmp(stream->tail, END, END_SIZE) == 0;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return fprintf(stderr, "floor PORT STREAMS REQUESTS_A_STREAM < requests\n"), 2;
    int port = atoi(argv[1]), streams = atoi(argv[2]), each = atoi(argv[3]), total = streams * each;
    size_t size = 0;
    char *data = read_all(&size), *at = data;
    struct request *requests = calloc(total, sizeof *requests);
    struct stream *all = calloc(streams, sizeof *all);
    double *ttft_ms = calloc(total, sizeof *ttft_ms);
    static char buffer[65536];
    struct epoll_event events[256];
    int epoll = epoll_create1(0), first = 0, done = 0, lost = 0, alive = streams;
    long reads = 0, bytes = 0;
    for (int i = 0; i < total; i++) {
        if (at + 4 > data + size)
            return fprintf(stderr, "only %d of %d requests were given\n", i, total), 2;
        memcpy(&requests[i].size, at, 4);
        requests[i].bytes = at + 4;
        at += 4 + requests[i].size;
    }
    for (int i = 0; i < streams; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        all[i].fd = open_socket(port);
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    double cpu = cpu_s();
    int64_t started = now_ns();
    for (int i = 0; i < streams; i++)
        send_request(&all[i], &requests[i * each]);
    int64_t burst = now_ns() - started;
    while (alive) {
        int ready = epoll_wait(epoll, events, 256, 10000);
        if (ready == 0)
            break; /* a server that is silent for so long has lost them */
        for (int i = 0; i < ready; i++) {
            struct stream *stream = events[i].data.ptr;
            ssize_t got = recv(stream->fd, buffer, sizeof buffer, 0);
            if (got < 0 && errno == EAGAIN)
                continue;
            if (got <= 0) {
                epoll_ctl(epoll, EPOLL_CTL_DEL, stream->fd, NULL);
                alive--;
                continue;
            }
            reads++;
            bytes += got;
            if (stream->waiting) {
                stream->waiting = 0;
                ttft_ms[first++] = (now_ns() - stream->sent) / 1e6;
            }
            if (!ends(stream, buffer, got))
                continue;
            done++;
            if (++stream->next < each) {
                send_request(stream, &requests[(stream - all) * each + stream->next]);
            } else {
                epoll_ctl(epoll, EPOLL_CTL_DEL, stream->fd, NULL);
                alive--;
            }
        }
    }
    cpu = cpu_s() - cpu;
    lost = total - done;
    printf("{\"cpu_s\": %.6f, \"wall_s\": %.6f, \"burst_ms\": %.3f, \"reads\": %ld, \"bytes\": %ld, \"ok\": %d, \"lost\": %d, \"ttft_ms\": [",
           cpu, (now_ns() - started) / 1e9, burst / 1e6, reads, bytes, done, lost);
    for (int i = 0; i < first; i++)
        printf("%s%.4f", i ? ", " : "", ttft_ms[i]);
    printf("]}\n");
    return 0;
}
