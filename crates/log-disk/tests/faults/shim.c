/* Preloaded into a child process: a disk that loses what was not synced, and whose calls fail when asked to.
 *
 * After every sync that succeeds the file is copied to FILE.synced: what a loss of power would leave of it.
 * FAIL_SYNC_AT=n: from the n-th sync on, every sync fails once with EIO and does nothing, as Linux does it.
 * FAIL_WRITE_AT=n, FAIL_WRITE_FOR=m, FAIL_WRITE_WITH=errno: that many writes from the n-th on fail.
 * Only files below FAULT_DIR are touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long syncs, writes;

static long number(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text ? atol(text) : otherwise;
}

static int path_of(int fd, char *path, size_t size) {
  const char *dir = getenv("FAULT_DIR");
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t len = readlink(link, path, size - 1);
  if (len < 0 || !dir) return 0;
  path[len] = 0;
  return strncmp(path, dir, strlen(dir)) == 0;
}

static void copy(const char *path) {
  char to[4200], part[4300], block[65536];
  snprintf(to, sizeof to, "%s.synced", path);
  snprintf(part, sizeof part, "%s.part", to);
  int in = open(path, O_RDONLY), out = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  ssize_t got;
  while (in >= 0 && out >= 0 && (got = read(in, block, sizeof block)) > 0)
    if (write(out, block, (size_t)got) != got) abort();
  close(in);
  close(out);
  rename(part, to);
}

static int sync_with(int fd, const char *name) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  char path[4096];
  if (!path_of(fd, path, sizeof path)) return real(fd);
  pthread_mutex_lock(&lock);
  int result;
  if (++syncs >= number("FAIL_SYNC_AT", 1L << 60)) {
    errno = EIO;
    result = -1;
  } else {
    result = real(fd);
    /* Syncing a directory is taken for done at once: its entries are not simulated. */
    if (result == 0 && strcmp(path, getenv("FAULT_DIR")) != 0) copy(path);
  }
  pthread_mutex_unlock(&lock);
  return result;
}

int fsync(int fd) { return sync_with(fd, "fsync"); }
int fdatasync(int fd) { return sync_with(fd, "fdatasync"); }

static int write_fails(int fd) {
  char path[4096];
  if (!path_of(fd, path, sizeof path)) return 0;
  long at = number("FAIL_WRITE_AT", 1L << 60);
  long n = __sync_add_and_fetch(&writes, 1);
  if (n < at || n >= at + number("FAIL_WRITE_FOR", 1L << 60)) return 0;
  errno = (int)number("FAIL_WRITE_WITH", EIO);
  return 1;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  ssize_t (*real)(int, const void *, size_t, off64_t) =
      (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
  return write_fails(fd) ? -1 : real(fd, data, size, at);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return pwrite64(fd, data, size, at); }
