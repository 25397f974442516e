// Keeps a thread of a bench on one core, so that its figures do not depend on where the scheduler moves it.
#pragma once
#include <pthread.h>
#include <sched.h>

namespace heddle::test {

// The calling thread runs on the index-th core that this process may use from now on, counted round and round.
inline void pin_to(int index) {
#if defined(__linux__)
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
  const int cpus = CPU_COUNT(&allowed);
  for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || seen++ != index % cpus) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
    return;
  }
#else
  (void)index;
#endif
}

}  // namespace heddle::test
