/* Runs a program and ends it with SIGKILL at the N-th of its system calls that change something: a file, or
 * what another process knows (a message that is sent). The call itself is not executed. With N 0 none ends
 * it.
 *
 *      crash-at --log=FILE [--pause=PATTERN] N PROGRAM [ARGUMENT…]
 *
 * The log names each such call in a line: "7 rename .config.toml.dps-x3Fa9c", the last one being the one
 * that was not executed. Calls are counted from the first message on, which leaves out what happens before
 * main(). With --pause=, the program stands still at the first call whose name and path match, until
 * SIGUSR1. Exit status: 77 when it was killed, else the program's. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILLED 77

#if defined(__x86_64__)
#define SECOND_ARGUMENT rsi
#elif defined(__aarch64__)
#define SECOND_ARGUMENT regs[1]
#endif

static const struct {
        long number;
        const char *name;
        int path;      /* index of the argument with the path, -1: none */
        int file;      /* index of the argument with a descriptor that has to be a file, -1: none */
        int open_flag; /* index of the argument with flags of open(), -1: none */
        bool message;
} calls[] = {
        { SYS_openat, "open", 1, -1, 2, false },         { SYS_write, "write", -1, 0, -1, false },
        { SYS_pwrite64, "write", -1, 0, -1, false },     { SYS_writev, "write", -1, 0, -1, false },
        { SYS_ftruncate, "truncate", -1, 0, -1, false }, { SYS_fallocate, "allocate", -1, 0, -1, false },
        { SYS_fsync, "fsync", -1, 0, -1, false },        { SYS_fdatasync, "fsync", -1, 0, -1, false },
        { SYS_fchmod, "chmod", -1, 0, -1, false },       { SYS_fchown, "chown", -1, 0, -1, false },
        { SYS_fsetxattr, "setxattr", 1, 0, -1, false },  { SYS_fchmodat, "chmod", 1, -1, -1, false },
        { SYS_fchownat, "chown", 1, -1, -1, false },     { SYS_mkdirat, "mkdir", 1, -1, -1, false },
        { SYS_unlinkat, "unlink", 1, -1, -1, false },    { SYS_linkat, "link", 1, -1, -1, false },
        { SYS_symlinkat, "symlink", 2, -1, -1, false },  { SYS_mknodat, "mknod", 1, -1, -1, false },
        { SYS_utimensat, "utimes", 1, -1, -1, false },   { SYS_renameat2, "rename", 1, -1, -1, false },
#ifdef SYS_renameat
        { SYS_renameat, "rename", 1, -1, -1, false },
#endif
#ifdef SYS_open
        { SYS_open, "open", 0, -1, 1, false },           { SYS_creat, "open", 0, -1, -1, false },
        { SYS_rename, "rename", 0, -1, -1, false },      { SYS_unlink, "unlink", 0, -1, -1, false },
        { SYS_mkdir, "mkdir", 0, -1, -1, false },        { SYS_chmod, "chmod", 0, -1, -1, false },
        { SYS_chown, "chown", 0, -1, -1, false },        { SYS_link, "link", 0, -1, -1, false },
        { SYS_symlink, "symlink", 1, -1, -1, false },
#endif
        { SYS_sendmsg, "send", -1, -1, -1, true },       { SYS_sendto, "send", -1, -1, -1, true },
};

static bool is_file(pid_t pid, uint64_t fd) {
        char path[64];
        struct stat st;

        (void) snprintf(path, sizeof(path), "/proc/%d/fd/%llu", (int) pid, (unsigned long long) fd);
        return stat(path, &st) >= 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
}

/* The index in calls[], or -1. */
static int find_call(pid_t pid, const struct __ptrace_syscall_info *info) {
        for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
                if ((uint64_t) calls[i].number != info->entry.nr)
                        continue;
                if (calls[i].open_flag >= 0 &&
                    !(info->entry.args[calls[i].open_flag] & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)))
                        return -1;
                if (calls[i].file >= 0 && !is_file(pid, info->entry.args[calls[i].file]))
                        return -1;
                return (int) i;
        }
        return -1;
}

static void read_text(pid_t pid, uint64_t address, char *ret, size_t size) {
        size_t n = 0;

        while (n + sizeof(long) < size) {
                long word;

                errno = 0;
                word = ptrace(PTRACE_PEEKDATA, pid, address + n, NULL);
                if (errno != 0) {
                        perror("crash-at: the program's memory can't be read");
                        exit(125);
                }
                memcpy(ret + n, &word, sizeof(word));
                if (memchr(&word, '\0', sizeof(word)))
                        return;
                n += sizeof(word);
        }
        ret[n] = '\0';
}

static void describe(char *ret, size_t size, pid_t pid, int call, const struct __ptrace_syscall_info *info) {
        char path[512] = "", link[64];
        ssize_t length;

        if (calls[call].path >= 0)
                read_text(pid, info->entry.args[calls[call].path], path, sizeof(path));
        else if (calls[call].file >= 0) {
                (void) snprintf(link, sizeof(link), "/proc/%d/fd/%llu", (int) pid,
                                (unsigned long long) info->entry.args[calls[call].file]);
                length = readlink(link, path, sizeof(path) - 1);
                path[length > 0 ? length : 0] = '\0';
        }
        (void) snprintf(ret, size, "%s %s", calls[call].name, path);
}

/* Our programs make themselves undumpable, and without CAP_SYS_PTRACE nobody reads a path from such a one.
 */
static void keep_dumpable(pid_t pid, const struct __ptrace_syscall_info *info) {
#ifdef SECOND_ARGUMENT
        struct user_regs_struct registers;
        struct iovec io = { .iov_base = &registers, .iov_len = sizeof(registers) };

        if (info->entry.nr != SYS_prctl || info->entry.args[0] != PR_SET_DUMPABLE ||
            ptrace(PTRACE_GETREGSET, pid, (void *) NT_PRSTATUS, &io) < 0)
                return;
        registers.SECOND_ARGUMENT = 1;
        (void) ptrace(PTRACE_SETREGSET, pid, (void *) NT_PRSTATUS, &io);
#endif
}

static int start(char **argv) {
        pid_t pid = fork();

        if (pid != 0)
                return pid;
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 || raise(SIGSTOP) != 0)
                _exit(126);
        (void) execv(argv[0], argv);
        _exit(127);
}

typedef struct Run {
        FILE *log;
        const char *pause; /* NULL once it was done */
        unsigned n, stop_at;
        bool counting;
} Run;

static void wait_for_signal(void) {
        sigset_t set;
        int number;

        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGUSR1);
        (void) sigwait(&set, &number); /* main() has blocked it */
}

/* True when it is to be killed here. */
static bool on_entry(Run *run, pid_t pid, const struct __ptrace_syscall_info *info) {
        int call = find_call(pid, info);
        char text[600];

        keep_dumpable(pid, info);
        run->counting = run->counting || (call >= 0 && calls[call].message);
        if (call < 0 || !run->counting)
                return false;
        describe(text, sizeof(text), pid, call, info);
        (void) fprintf(run->log, "%u %s\n", ++run->n, text);
        (void) fflush(run->log);
        if (run->pause && fnmatch(run->pause, text, 0) == 0) {
                run->pause = NULL;
                wait_for_signal();
        }
        return run->n == run->stop_at;
}

static int trace(Run *run, pid_t pid) {
        int status;

        if (waitpid(pid, &status, 0) < 0 ||
            ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) < 0)
                return 125;
        for (int signal_number = 0;;) {
                struct __ptrace_syscall_info info = {};

                if (ptrace(PTRACE_SYSCALL, pid, NULL, signal_number) < 0 || waitpid(pid, &status, 0) < 0)
                        return 125;
                signal_number = 0;
                if (WIFEXITED(status))
                        return WEXITSTATUS(status);
                if (WIFSIGNALED(status))
                        return 128 + WTERMSIG(status);
                if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
                        signal_number = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
                        continue;
                }
                if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) > 0 &&
                    info.op == PTRACE_SYSCALL_INFO_ENTRY && on_entry(run, pid, &info)) {
                        (void) kill(pid, SIGKILL);
                        (void) waitpid(pid, &status, 0);
                        return KILLED;
                }
        }
}

int main(int argc, char *argv[]) {
        Run run = {};
        sigset_t set;
        pid_t pid;
        int i = 2, r;

        if (argc > 2 && strncmp(argv[2], "--pause=", 8) == 0)
                run.pause = argv[i++] + 8;
        if (argc < i + 2 || strncmp(argv[1], "--log=", 6) != 0) {
                (void) fputs("Usage: crash-at --log=FILE [--pause=PATTERN] N PROGRAM [ARGUMENT…]\n", stderr);
                return 2;
        }
        run.stop_at = (unsigned) strtoul(argv[i], NULL, 10);
        run.log = fopen(argv[1] + 6, "we");
        if (!run.log) {
                perror(argv[1] + 6);
                return 125;
        }
        pid = start(argv + i + 1);
        (void) sigemptyset(&set);
        (void) sigaddset(&set, SIGUSR1);
        (void) sigprocmask(SIG_BLOCK, &set, NULL);
        r = pid < 0 ? 125 : trace(&run, pid);
        (void) fclose(run.log);
        return r;
}
