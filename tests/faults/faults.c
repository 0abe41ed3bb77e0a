/* Makes the file system fail on purpose, or kills the process, at a chosen operation below a chosen folder.
 *
 * Preloaded into a process (LD_PRELOAD), it does nothing until fault_arm is called. From then on it counts the
 * operations that change something below `root`; at operation number `target` it does what `mode` says.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { LIST, KILL_BEFORE, KILL_AFTER, EIO_ONCE, NO_SPACE, READ_ONLY };
enum kind { CREATES, REMOVES }; /* a full disk refuses only what needs space */

static char root[PATH_MAX];
static size_t root_length;
static long target;
static enum mode mode;
static int list = -1;
static atomic_long count;
static atomic_int armed;
static pid_t owner;

/* `list_path` gets a line for each operation, "NUMBER NAME PATH"; it must not lie below `root`. */
void fault_arm(const char *folder, long number, int what, const char *list_path) {
    if (!realpath(folder, root)) abort();
    root_length = strlen(root);
    target = number;
    mode = what;
    list = list_path ? syscall(SYS_openat, AT_FDCWD, list_path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    owner = getpid();
    armed = 1;
}

static int below(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

/* The absolute form of a path, as far as the watched folder needs it: links within it are not followed. */
static int absolute(int folder, const char *path, char *out) {
    char base[PATH_MAX], link[64];
    if (path[0] == '/') return snprintf(out, PATH_MAX, "%s", path) > 0;
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
    }
    return snprintf(out, PATH_MAX, "%s/%s", base, path) > 0;
}

static int of_descriptor(int descriptor, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    if (length < 0) return 0;
    out[length] = 0;
    return 1;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* 0 to go on, 1 to go on and die, -1 to fail with errno set. */
static int decide(const char *name, enum kind kind, const char *path) {
    if (!armed || getpid() != owner || !below(path)) return 0;
    long number = atomic_fetch_add(&count, 1) + 1;
    if (list >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", number, name, path + root_length);
        syscall(SYS_write, list, line, length);
    }
    if (mode == LIST || number < target) return 0;
    switch (mode) {
    case KILL_BEFORE: die(); return 0;
    case KILL_AFTER: return 1;
    case EIO_ONCE: if (number > target) return 0; errno = EIO; return -1;
    case NO_SPACE: if (kind == REMOVES) return 0; errno = ENOSPC; return -1;
    case READ_ONLY: errno = EROFS; return -1;
    default: return 0;
    }
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define GUARDED(label, kind, path, call) \
    do { \
        int decision = decide(label, kind, path); \
        if (decision < 0) return -1; \
        __auto_type result = (call); \
        if (decision > 0) die(); \
        return result; \
    } while (0)
#define ON_DESCRIPTOR(label, kind, descriptor, call) \
    do { \
        char path[PATH_MAX]; \
        if (!armed || !of_descriptor(descriptor, path)) return (call); \
        GUARDED(label, kind, path, call); \
    } while (0)
#define ON_PATH(label, kind, folder, name, call) \
    do { \
        char path[PATH_MAX]; \
        if (!armed || !absolute(folder, name, path)) return (call); \
        GUARDED(label, kind, path, call); \
    } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(write);
    ON_DESCRIPTOR("write", CREATES, fd, next(fd, data, size));
}
ssize_t writev(int fd, const struct iovec *data, int parts) {
    NEXT(writev);
    ON_DESCRIPTOR("writev", CREATES, fd, next(fd, data, parts));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    NEXT(pwrite64);
    ON_DESCRIPTOR("pwrite", CREATES, fd, next(fd, data, size, at));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    NEXT(pwrite);
    ON_DESCRIPTOR("pwrite", CREATES, fd, next(fd, data, size, at));
}
int ftruncate64(int fd, off64_t size) {
    NEXT(ftruncate64);
    ON_DESCRIPTOR("ftruncate", CREATES, fd, next(fd, size));
}
int ftruncate(int fd, off_t size) {
    NEXT(ftruncate);
    ON_DESCRIPTOR("ftruncate", CREATES, fd, next(fd, size));
}
int fsync(int fd) {
    NEXT(fsync);
    ON_DESCRIPTOR("fsync", CREATES, fd, next(fd));
}
int fdatasync(int fd) {
    NEXT(fdatasync);
    ON_DESCRIPTOR("fdatasync", CREATES, fd, next(fd));
}
int futimens(int fd, const struct timespec times[2]) {
    NEXT(futimens);
    ON_DESCRIPTOR("utime", CREATES, fd, next(fd, times));
}
int rename(const char *from, const char *to) {
    NEXT(rename);
    ON_PATH("rename", CREATES, AT_FDCWD, to, next(from, to));
}
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    NEXT(renameat);
    ON_PATH("rename", CREATES, to_folder, to, next(from_folder, from, to_folder, to));
}
int unlink(const char *name) {
    NEXT(unlink);
    ON_PATH("unlink", REMOVES, AT_FDCWD, name, next(name));
}
int unlinkat(int folder, const char *name, int flags) {
    NEXT(unlinkat);
    ON_PATH(flags & AT_REMOVEDIR ? "rmdir" : "unlink", REMOVES, folder, name, next(folder, name, flags));
}
int rmdir(const char *name) {
    NEXT(rmdir);
    ON_PATH("rmdir", REMOVES, AT_FDCWD, name, next(name));
}
int mkdir(const char *name, mode_t permissions) {
    NEXT(mkdir);
    ON_PATH("mkdir", CREATES, AT_FDCWD, name, next(name, permissions));
}
int mkdirat(int folder, const char *name, mode_t permissions) {
    NEXT(mkdirat);
    ON_PATH("mkdir", CREATES, folder, name, next(folder, name, permissions));
}
int symlink(const char *leads_to, const char *name) {
    NEXT(symlink);
    ON_PATH("symlink", CREATES, AT_FDCWD, name, next(leads_to, name));
}
int symlinkat(const char *leads_to, int folder, const char *name) {
    NEXT(symlinkat);
    ON_PATH("symlink", CREATES, folder, name, next(leads_to, folder, name));
}

#define CHANGES(flags) ((flags) & (O_CREAT | O_TRUNC))
#define PERMISSIONS(flags) \
    mode_t permissions = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        permissions = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *name, int flags, ...) {
    NEXT(open);
    PERMISSIONS(flags);
    if (!CHANGES(flags)) return next(name, flags, permissions);
    ON_PATH("open", CREATES, AT_FDCWD, name, next(name, flags, permissions));
}
int open64(const char *name, int flags, ...) {
    NEXT(open64);
    PERMISSIONS(flags);
    if (!CHANGES(flags)) return next(name, flags, permissions);
    ON_PATH("open", CREATES, AT_FDCWD, name, next(name, flags, permissions));
}
int openat(int folder, const char *name, int flags, ...) {
    NEXT(openat);
    PERMISSIONS(flags);
    if (!CHANGES(flags)) return next(folder, name, flags, permissions);
    ON_PATH("open", CREATES, folder, name, next(folder, name, flags, permissions));
}
int openat64(int folder, const char *name, int flags, ...) {
    NEXT(openat64);
    PERMISSIONS(flags);
    if (!CHANGES(flags)) return next(folder, name, flags, permissions);
    ON_PATH("open", CREATES, folder, name, next(folder, name, flags, permissions));
}
/* C streams open files without going through open(). */
FILE *fopen64(const char *name, const char *how) {
    static FILE *(*next)(const char *, const char *);
    if (!next) next = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, "fopen64");
    char path[PATH_MAX];
    if (!armed || how[0] == 'r' || !absolute(AT_FDCWD, name, path)) return next(name, how);
    int decision = decide("open", CREATES, path);
    if (decision < 0) return NULL;
    FILE *result = next(name, how);
    if (decision > 0) die();
    return result;
}
