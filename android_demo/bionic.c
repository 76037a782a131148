/*
 * Where Android's C library differs from this computer's in ways that ONNX Runtime notices: names that only it has, and
 * numbers and sizes of its own. bionic.py adds a jump to this computer's function for every other name that is needed,
 * so that the APK's x86-64 libraries run unchanged. Types that both share (mutexes, stat, tm, dirent) are alike there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AS(name) __asm__(".symver bionic_" #name "," #name "@LIBC")

FILE *bionic_stdin, *bionic_stdout, *bionic_stderr;
char bionic___sF[3][152]; /* addresses that stand for the three, in libraries for Android before 6 */
AS(stdin);
AS(stdout);
AS(stderr);
AS(__sF);

__attribute__((constructor)) static void begin(void) {
    bionic_stdin = stdin;
    bionic_stdout = stdout;
    bionic_stderr = stderr;
}

static FILE *real(FILE *file) {
    FILE *three[] = {stdin, stdout, stderr};
    for (int i = 0; i < 3; i++)
        if ((char *)file == bionic___sF[i]) return three[i];
    return file;
}

int bionic_fflush(FILE *file) { return fflush(file ? real(file) : NULL); }
AS(fflush);

int bionic_fputc(int character, FILE *file) { return fputc(character, real(file)); }
AS(fputc);

int bionic_fputs(const char *text, FILE *file) { return fputs(text, real(file)); }
AS(fputs);

size_t bionic_fwrite(const void *data, size_t size, size_t count, FILE *file) {
    return fwrite(data, size, count, real(file));
}
AS(fwrite);

int bionic_getc(FILE *file) { return getc(real(file)); }
AS(getc);

int bionic_ungetc(int character, FILE *file) { return ungetc(character, real(file)); }
AS(ungetc);

int bionic_fileno(FILE *file) { return fileno(real(file)); }
AS(fileno);

int bionic_vfprintf(FILE *file, const char *format, va_list values) { return vfprintf(real(file), format, values); }
AS(vfprintf);

int bionic_fprintf(FILE *file, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int written = vfprintf(real(file), format, values);
    va_end(values);
    return written;
}
AS(fprintf);

int *bionic___errno(void) { return &errno; }
AS(__errno);

int __xpg_strerror_r(int number, char *text, size_t size); /* POSIX's, which has another name here */

int bionic_strerror_r(int number, char *text, size_t size) { return __xpg_strerror_r(number, text, size); }
AS(strerror_r);

char *bionic___gnu_strerror_r(int number, char *text, size_t size) { return strerror_r(number, text, size); }
AS(__gnu_strerror_r);

size_t bionic___strlen_chk(const char *text, size_t size) { return strnlen(text, size); }
AS(__strlen_chk);

char *bionic___strchr_chk(const char *text, int wanted, size_t size) { return (void)size, strchr(text, wanted); }
AS(__strchr_chk);

void bionic___FD_SET_chk(int file, fd_set *set, size_t size) { (void)size, FD_SET(file, set); }
AS(__FD_SET_chk);

int bionic___FD_ISSET_chk(int file, const fd_set *set, size_t size) { return (void)size, FD_ISSET(file, set); }
AS(__FD_ISSET_chk);

/* No property is set: what is asked for is an Android version, and there is none. */
int bionic___system_property_get(const char *name, char *value) { return (void)name, *value = 0; }
AS(__system_property_get);

void bionic_android_set_abort_message(const char *message) { fprintf(stderr, "%s\n", message); }
AS(android_set_abort_message);

long bionic_sysconf(int name) {
    switch (name) {
        case 0x27: case 0x28: return sysconf(_SC_PAGESIZE);
        case 0x60: return sysconf(_SC_NPROCESSORS_CONF);
        case 0x61: return sysconf(_SC_NPROCESSORS_ONLN);
        case 0x62: return sysconf(_SC_PHYS_PAGES);
        case 0x91 ... 0xa0: return 0; /* sizes of caches, which many phones do not tell */
        default:
            fprintf(stderr, "bionic.c: sysconf(0x%x) is not known\n", name);
            abort();
    }
}
AS(sysconf);

/* A sigset_t is 8 bytes there, 128 here. */
int bionic_sigfillset(unsigned long *set) { return (int)(*set = ~0UL, 0); }
AS(sigfillset);

int bionic_pthread_sigmask(int how, const unsigned long *set, unsigned long *old) {
    return syscall(SYS_rt_sigprocmask, how, set, old, sizeof *set) ? errno : 0;
}
AS(pthread_sigmask);

/* liblog, whose names have no version */
int __android_log_write(int priority, const char *tag, const char *text) {
    return fprintf(stderr, "%d %s: %s\n", priority, tag, text);
}

int __android_log_vprint(int priority, const char *tag, const char *format, va_list values) {
    fprintf(stderr, "%d %s: ", priority, tag);
    return vfprintf(stderr, format, values) + fprintf(stderr, "\n");
}

int __android_log_print(int priority, const char *tag, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int written = __android_log_vprint(priority, tag, format, values);
    va_end(values);
    return written;
}
