// A team of threads that go through one pass together.
//
// A pass has some 150 points at which all threads must have arrived, a few
// microseconds apart, so they spin there; a thread that waits for long sleeps,
// since the cores may be needed by the drafter or by the target next to it.
#pragma once

#include <atomic>
#include <functional>
#if defined(__linux__)
#include <sched.h>
#endif
#include <thread>
#include <vector>

namespace treedraft {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Sleeps until `value` is no longer `old`, after having spun for some microseconds.
inline void wait_for_change(const std::atomic<unsigned>& value, unsigned old) {
  constexpr int kSpins = 2000;
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old);
}

// The core that the thread runs on, -1 if unknown.
inline int own_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Moves the thread off `core` if there is another that it may use. It is free to go anywhere
// afterwards, but schedulers leave a thread where it last ran.
inline void leave_core(int core) {
#if defined(__linux__)
  cpu_set_t allowed, others;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  others = allowed;
  CPU_CLR(core, &others);
  if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof(others), &others) == 0)
    sched_setaffinity(0, sizeof(allowed), &allowed);
#endif
}

class Barrier {
 public:
  explicit Barrier(int num_threads) : num_threads_(num_threads) {}

  void arrive_and_wait() {
    const unsigned turn = turn_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      turn_.fetch_add(1, std::memory_order_release);
      turn_.notify_all();
    } else {
      wait_for_change(turn_, turn);
    }
  }

 private:
  const int num_threads_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> turn_{0};
};

// Runs a function on all its threads at once; the caller is the first of them.
class ThreadTeam {
 public:
  explicit ThreadTeam(int num_threads) : barrier(num_threads), num_threads_(num_threads) {
    for (int i = 1; i < num_threads; ++i) threads_.emplace_back([this, i] { serve(i); });
  }

  ~ThreadTeam() {
    is_closing_ = true;
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  // `work` is given the number of the thread; returns when all have returned.
  void run(const std::function<void(int)>& work) {
    work_ = &work;
    caller_core_ = own_core();
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
    work(0);
    barrier.arrive_and_wait();
  }

  int size() const { return num_threads_; }

  Barrier barrier;

 private:
  void serve(int number) {
    unsigned seen = 0;
    while (true) {
      wait_for_change(job_, seen);
      seen = job_.load(std::memory_order_acquire);
      if (is_closing_) return;
      // A scheduler may wake a thread on its caller's core and leave it there: then each
      // waits for the other to sleep, at every meeting.
      if (caller_core_ >= 0 && own_core() == caller_core_) leave_core(caller_core_);
      (*work_)(number);
      barrier.arrive_and_wait();
    }
  }

  const int num_threads_;
  std::vector<std::thread> threads_;
  std::atomic<unsigned> job_{0};
  std::atomic<bool> is_closing_{false};
  int caller_core_ = -1;
  const std::function<void(int)>* work_ = nullptr;
};

}  // namespace treedraft
