/* Faults at chosen file-changing system calls of a process, below one folder (Linux, x86-64).
 *
 * A seccomp filter turns every file-changing system call into SIGSYS, whoever made it: Python, a C
 * or Rust library, stdio. The handler counts those below the root, logs them, and carries them out,
 * fails them, or kills the process before, in the middle of or after one of them. Its own system
 * calls pass the filter because they carry PASS in the unused upper half of the sixth argument.
 *
 * Only the process that was armed counts; its children pass through. See README.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef __x86_64__
#error "the fault layer knows the registers of x86-64 only"
#endif

#define PASS 0xFA17C0DEul
#define PATH_SIZE 4096
#define IOV_MAX_ 1024
#define OPENS_FOR_WRITING (O_ACCMODE | O_CREAT | O_TRUNC)

/* ---- system calls that pass the filter ---- */

static long pass6(long nr, long a, long b, long c, long d, long e, unsigned long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register unsigned long r9 __asm__("r9") = (f & 0xFFFFFFFFul) | PASS << 32;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#define pass(nr, a, b, c, d, e) pass6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

static void put(int fd, const char *bytes, size_t size) {
    while (size > 0) {
        long written = pass(SYS_write, fd, bytes, size, 0, 0);
        if (written <= 0) return;
        bytes += written;
        size -= (size_t)written;
    }
}

/* ---- which calls change files, and where their arguments stand ---- */

enum { NO = -1 };
enum shape { PLAIN, OPEN, WRITE, WRITEV, COPY, CLONE, SYNC };

struct call {
    int nr;
    const char *name;
    enum shape shape;
    signed char fd;           /* argument with the file, or */
    signed char dir, path;    /* arguments with folder and path, */
    signed char dir2, path2;  /* and those of a second path */
    signed char offset, size, flags;
    char space;               /* may fail for want of space */
};

static const struct call CALLS[] = {
    {SYS_write, "write", WRITE, 0, NO, NO, NO, NO, NO, 2, NO, 1},
    {SYS_pwrite64, "pwrite64", WRITE, 0, NO, NO, NO, NO, 3, 2, NO, 1},
    {SYS_writev, "writev", WRITEV, 0, NO, NO, NO, NO, NO, NO, NO, 1},
    {SYS_pwritev, "pwritev", WRITEV, 0, NO, NO, NO, NO, 3, NO, NO, 1},
    {SYS_pwritev2, "pwritev2", WRITEV, 0, NO, NO, NO, NO, 3, NO, 5, 1},
    {SYS_copy_file_range, "copy_file_range", COPY, 2, NO, NO, NO, NO, NO, 4, 5, 1},
    {SYS_sendfile, "sendfile", COPY, 0, NO, NO, NO, NO, NO, 3, NO, 1},
    {SYS_ioctl, "ioctl_clone", CLONE, 0, NO, NO, NO, NO, NO, NO, NO, 1},
    {SYS_open, "open", OPEN, NO, NO, 0, NO, NO, NO, NO, 1, 0},
    {SYS_openat, "openat", OPEN, NO, 0, 1, NO, NO, NO, NO, 2, 0},
    {SYS_openat2, "openat2", OPEN, NO, 0, 1, NO, NO, NO, NO, NO, 0},
    {SYS_creat, "creat", OPEN, NO, NO, 0, NO, NO, NO, NO, NO, 0},
    {SYS_rename, "rename", PLAIN, NO, NO, 0, NO, 1, NO, NO, NO, 1},
    {SYS_renameat, "renameat", PLAIN, NO, 0, 1, 2, 3, NO, NO, NO, 1},
    {SYS_renameat2, "renameat2", PLAIN, NO, 0, 1, 2, 3, NO, NO, 4, 1},
    {SYS_link, "link", PLAIN, NO, NO, 0, NO, 1, NO, NO, NO, 1},
    {SYS_linkat, "linkat", PLAIN, NO, 0, 1, 2, 3, NO, NO, 4, 1},
    {SYS_symlink, "symlink", PLAIN, NO, NO, 1, NO, NO, NO, NO, NO, 1},
    {SYS_symlinkat, "symlinkat", PLAIN, NO, 1, 2, NO, NO, NO, NO, NO, 1},
    {SYS_mkdir, "mkdir", PLAIN, NO, NO, 0, NO, NO, NO, NO, NO, 1},
    {SYS_mkdirat, "mkdirat", PLAIN, NO, 0, 1, NO, NO, NO, NO, NO, 1},
    {SYS_unlink, "unlink", PLAIN, NO, NO, 0, NO, NO, NO, NO, NO, 0},
    {SYS_unlinkat, "unlinkat", PLAIN, NO, 0, 1, NO, NO, NO, NO, 2, 0},
    {SYS_rmdir, "rmdir", PLAIN, NO, NO, 0, NO, NO, NO, NO, NO, 0},
    {SYS_truncate, "truncate", PLAIN, NO, NO, 0, NO, NO, NO, 1, NO, 0},
    {SYS_ftruncate, "ftruncate", PLAIN, 0, NO, NO, NO, NO, NO, 1, NO, 0},
    {SYS_fallocate, "fallocate", PLAIN, 0, NO, NO, NO, NO, 2, 3, 1, 1},
    {SYS_chmod, "chmod", PLAIN, NO, NO, 0, NO, NO, NO, NO, NO, 0},
    {SYS_fchmod, "fchmod", PLAIN, 0, NO, NO, NO, NO, NO, NO, NO, 0},
    {SYS_fchmodat, "fchmodat", PLAIN, NO, 0, 1, NO, NO, NO, NO, NO, 0},
    {SYS_fsync, "fsync", SYNC, 0, NO, NO, NO, NO, NO, NO, NO, 1},
    {SYS_fdatasync, "fdatasync", SYNC, 0, NO, NO, NO, NO, NO, NO, NO, 1},
    {SYS_sync_file_range, "sync_file_range", SYNC, 0, NO, NO, NO, NO, 1, 2, 3, 1},
};
#define CALL_COUNT (sizeof CALLS / sizeof *CALLS)

static const struct call *find_call(int nr) {
    for (size_t i = 0; i < CALL_COUNT; i++)
        if (CALLS[i].nr == nr) return &CALLS[i];
    return NULL;
}

/* ---- what is armed ---- */

enum action { RECORD, KILL, FAIL };
enum mode { BEFORE, HALF, AFTER };

static struct {
    long pid; /* 0: nothing is armed */
    char root[PATH_SIZE];
    size_t root_size;
    enum action action;
    enum mode mode;
    long n;
    int error;
    int lasting;
    char until[PATH_SIZE];
    int log, data;
    long count, data_size;
    int fired;
} armed;

static atomic_flag busy = ATOMIC_FLAG_INIT;

static void lock(void) {
    while (atomic_flag_test_and_set(&busy)) pass(SYS_sched_yield, 0, 0, 0, 0, 0);
}

static void unlock(void) { atomic_flag_clear(&busy); }

/* ---- paths ---- */

static int read_link(const char *link, char *path) {
    long size = pass(SYS_readlink, link, path, PATH_SIZE - 1, 0, 0);
    path[size < 0 ? 0 : size] = 0;
    return size >= 0;
}

static int path_of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return read_link(link, path);
}

/* The folder is resolved by the kernel (symlinks, "..", dirfd), the last name stays as it is. */
static int path_of_name(int dir, const char *name, char *path) {
    char folder[PATH_SIZE];
    size_t size = strlen(name);
    if (size == 0 || size >= PATH_SIZE) return 0;
    while (size > 1 && name[size - 1] == '/') size--;
    size_t start = size;
    while (start > 0 && name[start - 1] != '/') start--;
    memcpy(folder, name, start);
    strcpy(folder + start, start ? "" : ".");
    long fd = pass(SYS_openat, dir, folder, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);
    if (fd < 0) return 0;
    int found = path_of_fd((int)fd, path);
    pass(SYS_close, fd, 0, 0, 0, 0);
    size_t end = strlen(path);
    if (!found || end + 1 + size - start >= PATH_SIZE) return 0;
    if (end > 1) path[end++] = '/';
    memcpy(path + end, name + start, size - start);
    path[end + size - start] = 0;
    return 1;
}

static int resolve(const long *args, int dir, int name, char *path) {
    path[0] = 0;
    if (name == NO) return 0;
    const char *text = (const char *)args[name];
    return text && path_of_name(dir == NO ? AT_FDCWD : (int)args[dir], text, path);
}

static int below_root(const char *path) {
    return !strncmp(path, armed.root, armed.root_size) &&
           (path[armed.root_size] == '/' || path[armed.root_size] == 0);
}

static const char *relative(const char *path) {
    if (!below_root(path)) return path;
    return path[armed.root_size] ? path + armed.root_size + 1 : ".";
}

/* ---- one call ---- */

struct event {
    const struct call *call;
    long args[6];
    long flags, offset, size, result;
    int counted, space;
    char path[PATH_SIZE], path2[PATH_SIZE];
};

static long argument(const struct event *e, int index) { return index == NO ? 0 : e->args[index]; }

static long vector_size(const struct iovec *iov, long count) {
    long size = 0;
    for (long i = 0; i < count; i++) size += (long)iov[i].iov_len;
    return size;
}

static long flags_of(const struct event *e) {
    if (e->call->nr == SYS_creat) return O_CREAT | O_WRONLY | O_TRUNC;
    if (e->call->nr == SYS_openat2) return (long)((struct open_how *)e->args[2])->flags;
    return argument(e, e->call->flags);
}

static int exists(const char *path) {
    return pass(SYS_faccessat, AT_FDCWD, path, F_OK, 0, 0) == 0;
}

/* Fill in what the log tells; say whether the call counts. */
static int describe(struct event *e) {
    const struct call *call = e->call;
    e->flags = flags_of(e);
    if (call->shape == OPEN && !(e->flags & OPENS_FOR_WRITING)) return 0;
    if (call->fd != NO) {
        e->path2[0] = 0;
        if (!path_of_fd((int)e->args[(int)call->fd], e->path)) return 0;
    } else {
        resolve(e->args, call->dir, call->path, e->path);
        resolve(e->args, call->dir2, call->path2, e->path2);
    }
    if (!below_root(e->path) && !below_root(e->path2)) return 0;
    e->offset = argument(e, call->offset);
    e->size = argument(e, call->size);
    if (call->shape == WRITEV) e->size = vector_size((void *)e->args[1], e->args[2]);
    e->space = call->space || (call->shape == OPEN && e->flags & O_CREAT && !exists(e->path));
    return 1;
}

static int divisible(const struct event *e) {
    enum shape shape = e->call->shape;
    return (shape == WRITE || shape == WRITEV || shape == COPY) && e->size > 1;
}

static struct iovec half_vector[IOV_MAX_];

/* A copy may ask for more than its source has. */
static long bytes_of(const struct event *e) {
    struct stat source;
    long fd = e->args[e->call->nr == SYS_sendfile ? 1 : 0];
    if (e->call->shape != COPY || pass(SYS_fstat, fd, &source, 0, 0, 0) < 0) return e->size;
    return source.st_size < e->size ? source.st_size : e->size;
}

static void halve(struct event *e) {
    e->size = bytes_of(e) / 2;
    if (e->call->shape != WRITEV) {
        e->args[(int)e->call->size] = e->size;
        return;
    }
    const struct iovec *iov = (const struct iovec *)e->args[1];
    long left = e->size, used = 0;
    for (; left > 0; used++) {
        half_vector[used] = iov[used];
        if ((long)iov[used].iov_len > left) half_vector[used].iov_len = (size_t)left;
        left -= (long)half_vector[used].iov_len;
    }
    e->args[1] = (long)half_vector;
    e->args[2] = used;
}

static long do_call(const struct event *e) {
    const long *a = e->args;
    return pass6(e->call->nr, a[0], a[1], a[2], a[3], a[4], (unsigned long)a[5]);
}

/* ---- the log ---- */

/* Control characters and '%' as %XX: one call is one line of fields between tabs. */
static size_t escaped(char *to, const char *text) {
    char *start = to;
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == '%' || c == 0x7F)
            to += sprintf(to, "%%%02X", c);
        else
            *to++ = (char)c;
    }
    *to = 0;
    return (size_t)(to - start);
}

static void read_back(int fd, long offset, long size) {
    static char buffer[1 << 16];
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long copy = pass(SYS_open, link, O_RDONLY | O_CLOEXEC, 0, 0, 0);
    while (size != 0) {
        long part = size < 0 || size > (long)sizeof buffer ? (long)sizeof buffer : size;
        part = pass(SYS_pread64, copy, buffer, part, offset, 0);
        if (part <= 0) break;
        put(armed.data, buffer, (size_t)part);
        armed.data_size += part;
        offset += part;
        size -= size < 0 ? 0 : part;
    }
    pass(SYS_close, copy, 0, 0, 0, 0);
}

static void put_vector(const struct iovec *iov, long size) {
    for (; size > 0; iov++) {
        long part = (long)iov->iov_len < size ? (long)iov->iov_len : size;
        put(armed.data, iov->iov_base, (size_t)part);
        armed.data_size += part;
        size -= part;
    }
}

/* Keep the bytes that a call has written, for the replay of a power cut. */
static void keep_bytes(const struct event *e) {
    int fd = (int)argument(e, e->call->fd);
    if (armed.data < 0 || e->result < 0) return;
    if (e->call->shape == WRITE) {
        put(armed.data, (const char *)e->args[1], (size_t)e->result);
        armed.data_size += e->result;
    } else if (e->call->shape == WRITEV) {
        put_vector((const struct iovec *)e->args[1], e->result);
    } else if (e->call->shape == COPY) {
        read_back(fd, e->offset, e->result);
    } else if (e->call->shape == CLONE) {
        read_back(fd, 0, -1);
    }
}

/* Calls without an offset moved the file's own; a copy may say where in memory. */
static long offset_of(const struct event *e) {
    enum shape shape = e->call->shape;
    if ((shape != WRITE && shape != WRITEV && shape != COPY) || e->call->offset != NO) return e->offset;
    if (e->call->nr == SYS_copy_file_range && e->args[3]) return *(long *)e->args[3] - e->result;
    return pass(SYS_lseek, argument(e, e->call->fd), 0, SEEK_CUR, 0, 0) - e->result;
}

static void write_log(struct event *e, const char *mark) {
    static char path[3 * PATH_SIZE], path2[3 * PATH_SIZE], line[7 * PATH_SIZE];
    long data = armed.data_size;
    if (armed.log < 0) return;
    if (e->result >= 0) e->offset = offset_of(e);
    keep_bytes(e);
    escaped(path, relative(e->path));
    escaped(path2, e->path2[0] ? relative(e->path2) : "");
    int size = snprintf(line, sizeof line, "%ld\t%s\t%ld\t%ld\t%ld\t%ld\t%d\t%ld\t%s\t%s\t%s\n",
                        armed.count, e->call->name, e->result, e->offset, e->size, e->flags,
                        e->space, armed.data_size > data ? data : -1, mark, path, path2);
    put(armed.log, line, (size_t)size);
}

/* ---- acting on a call ---- */

static void die(void) {
    pass(SYS_kill, armed.pid, SIGKILL, 0, 0, 0);
    for (;;) pass(SYS_pause, 0, 0, 0, 0, 0);
}

/* A test's disk needs no real flush: the log says what would be durable. */
static void perform(struct event *e) { e->result = e->call->shape == SYNC ? 0 : do_call(e); }

static void kill_at(struct event *e) {
    e->result = -EINTR;
    if (armed.mode == AFTER) perform(e);
    if (armed.mode == HALF && divisible(e)) {
        halve(e);
        perform(e);
    }
    write_log(e, armed.mode == BEFORE ? "kill-before" : armed.mode == HALF ? "kill-half" : "kill-after");
    die();
}

static int strikes(const struct event *e) {
    if (armed.action != FAIL || armed.count < armed.n) return 0;
    if (armed.fired && !armed.lasting) return 0;
    if ((armed.error == ENOSPC || armed.error == EDQUOT) && !e->space) return 0;
    return !armed.until[0] || !exists(armed.until);
}

static void fail_at(struct event *e) {
    if (armed.mode == HALF && divisible(e)) { /* the short write that comes before the error */
        armed.mode = BEFORE;
        halve(e);
        perform(e);
        write_log(e, "short");
        return;
    }
    armed.fired = 1;
    e->result = -armed.error;
    write_log(e, "fail");
}

static void act(struct event *e) {
    armed.count++;
    if (armed.action == KILL && armed.count == armed.n) {
        kill_at(e);
    } else if (strikes(e)) {
        fail_at(e);
    } else {
        perform(e);
        write_log(e, "");
    }
}

/* ---- from the kernel to a call and back ---- */

/* A call that does not count may block (a pipe): signals must reach it as they would have. */
static long pass_through(const struct event *e, const ucontext_t *context) {
    pass(SYS_rt_sigprocmask, SIG_SETMASK, &context->uc_sigmask, 0, 8, 0);
    return do_call(e);
}

static long handle(struct event *e, const ucontext_t *context) {
    if (armed.pid == 0 || armed.pid != pass(SYS_getpid, 0, 0, 0, 0, 0) || !describe(e))
        return pass_through(e, context);
    lock();
    act(e);
    unlock();
    return e->result;
}

static void on_sigsys(int signal, siginfo_t *info, void *raw) {
    ucontext_t *context = raw;
    greg_t *r = context->uc_mcontext.gregs;
    const struct call *call = find_call(info->si_syscall);
    (void)signal;
    if (!call) {
        r[REG_RAX] = -ENOSYS;
        return;
    }
    struct event e = {.call = call, .args = {r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10],
                                             r[REG_R8], r[REG_R9]}};
    r[REG_RAX] = handle(&e, context);
}

/* ---- installation ---- */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF(how, value, then, otherwise) BPF_JUMP(BPF_JMP | how | BPF_K, value, then, otherwise)
#define RETURN(what) BPF_STMT(BPF_RET | BPF_K, what)

static int add_call(struct sock_filter *to, const struct call *call) {
    struct sock_filter plain[] = {IF(BPF_JEQ, (unsigned)call->nr, 0, 1), RETURN(SECCOMP_RET_TRAP)};
    struct sock_filter opens[] = {IF(BPF_JEQ, (unsigned)call->nr, 0, 4),
                                  LOAD(args[call->flags == NO ? 0 : call->flags]),
                                  IF(BPF_JSET, OPENS_FOR_WRITING, 0, 1),
                                  RETURN(SECCOMP_RET_TRAP), RETURN(SECCOMP_RET_ALLOW)};
    struct sock_filter clones[] = {IF(BPF_JEQ, (unsigned)call->nr, 0, 5), LOAD(args[1]),
                                   IF(BPF_JEQ, FICLONE, 1, 0), IF(BPF_JEQ, FICLONERANGE, 0, 1),
                                   RETURN(SECCOMP_RET_TRAP), RETURN(SECCOMP_RET_ALLOW)};
    if (call->shape == OPEN && call->flags != NO) {
        memcpy(to, opens, sizeof opens);
        return sizeof opens / sizeof *opens;
    }
    if (call->shape == CLONE) {
        memcpy(to, clones, sizeof clones);
        return sizeof clones / sizeof *clones;
    }
    memcpy(to, plain, sizeof plain);
    return sizeof plain / sizeof *plain;
}

static int install_filter(void) {
    static struct sock_filter filter[8 + 6 * CALL_COUNT];
    struct sock_filter start[] = {LOAD(arch), IF(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
                                  RETURN(SECCOMP_RET_ALLOW),
                                  BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                           offsetof(struct seccomp_data, args[5]) + 4),
                                  IF(BPF_JEQ, PASS, 0, 1), RETURN(SECCOMP_RET_ALLOW), LOAD(nr)};
    memcpy(filter, start, sizeof start);
    size_t used = sizeof start / sizeof *start;
    for (size_t i = 0; i < CALL_COUNT; i++) used += (size_t)add_call(filter + used, &CALLS[i]);
    filter[used++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = (unsigned short)used, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program))
        return errno;
    return 0;
}

static int install_handler(void) {
    struct sigaction action = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};
    sigfillset(&action.sa_mask);
    return sigaction(SIGSYS, &action, NULL) ? errno : 0;
}

/* Catch the calls of this process and all that it starts. A program that it starts has the filter
 * but no handler unless LD_PRELOAD brings one: FAULTS_PID says that the filter is there. */
int faults_install(void) {
    int error = install_handler();
    if (error || getenv("FAULTS_PID")) return error;
    char pid[32];
    snprintf(pid, sizeof pid, "%d", getpid());
    error = install_filter();
    if (!error) setenv("FAULTS_PID", pid, 1);
    return error;
}

/* Copies of descriptors far from those that a program counts on. */
static int out_of_the_way(int fd) { return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 900); }

void faults_disarm(void) {
    if (armed.pid == 0) return;
    armed.pid = 0;
    if (armed.log >= 0) close(armed.log);
    if (armed.data >= 0) close(armed.data);
}

/* Count from here; act on call n (from 1). The root must exist. */
int faults_arm(const char *root, int action, int mode, long n, int error, int lasting,
               const char *until, int log, int data) {
    faults_disarm();
    memset(&armed, 0, sizeof armed);
    if (!realpath(root, armed.root)) return errno;
    armed.root_size = strlen(armed.root);
    armed.action = action;
    armed.mode = mode;
    armed.n = n;
    armed.error = error;
    armed.lasting = lasting;
    snprintf(armed.until, sizeof armed.until, "%s", until ? until : "");
    armed.log = out_of_the_way(log);
    armed.data = out_of_the_way(data);
    armed.pid = getpid();
    return 0;
}

long faults_count(void) { return armed.count; }

/* ---- programs under LD_PRELOAD are told by their environment ---- */

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static int open_for_log(const char *name) {
    const char *path = getenv(name);
    return path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
}

static void arm_from_environment(void) {
    int log = open_for_log("FAULTS_LOG"), data = open_for_log("FAULTS_DATA");
    int error = faults_arm(getenv("FAULTS_ROOT"), (int)number("FAULTS_ACTION"),
                           (int)number("FAULTS_MODE"), number("FAULTS_N"),
                           (int)number("FAULTS_ERRNO"), (int)number("FAULTS_LASTING"),
                           getenv("FAULTS_UNTIL"), log, data);
    if (log >= 0) close(log);
    if (data >= 0) close(data);
    if (error) {
        fprintf(stderr, "faults: can't watch FAULTS_ROOT: %s\n", strerror(error));
        _exit(120);
    }
}

__attribute__((constructor)) static void start(void) {
    if (!getenv("FAULTS_PID") && !getenv("FAULTS_ROOT")) return;
    int error = faults_install();
    if (error) {
        fprintf(stderr, "faults: can't install the filter: %s\n", strerror(error));
        _exit(120);
    }
    if (getenv("FAULTS_ROOT") && number("FAULTS_PID") == getpid()) arm_from_environment();
}
