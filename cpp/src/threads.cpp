// Workers look at a counter for a while after every run, since the next one mostly follows within
// microseconds, and sleep when it does not.

#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "error.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace swinv2 {
namespace {

constexpr int LOOKS = 4000;        // before a worker sleeps: some 100 microseconds
constexpr int LOOKS_ALONE = 2000;  // before one who waits lets others have the processor: there may be fewer

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
  asm volatile("yield");
#endif
}

template <class Done>
void wait_for(const Done& done) {
  for (int looks = 0; !done(); looks++) {
    if (looks < LOOKS_ALONE) pause();
    else std::this_thread::yield();
  }
}

long this_process() {
#if defined(_WIN32)
  return 0;  // processes are not forked there
#else
  return static_cast<long>(getpid());
#endif
}

}  // namespace

class Workers {
 public:
  explicit Workers(int count);
  ~Workers();

  using Call = void (*)(const void*, int);
  void run(Call call, const void* work);
  void meet();

 private:
  void stop();
  void serve(int member);
  void keep_off_this_processor();

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Call call_ = nullptr;
  const void* work_ = nullptr;
  std::atomic<unsigned> round_{0};  // goes up with every run()
  std::atomic<int> running_{0};     // threads that have not returned yet
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> arrived_{0};  // at meet()
  std::atomic<unsigned> meeting_{0};
};

Workers::Workers(int count) {
  try {
    for (int member = 1; member <= count; member++) threads_.emplace_back([this, member] { serve(member); });
  } catch (const std::system_error&) {
    const std::string had = std::to_string(threads_.size() + 1);
    stop();
    throw Error(SWINV2_UNSUPPORTED, "the system gives no more than " + had + " threads, and " +
                                        std::to_string(count + 1) + " were asked for; give fewer");
  } catch (...) {  // no memory for one more
    stop();        // a thread that nobody waits for ends the program
    throw;
  }
}

Workers::~Workers() { stop(); }

void Workers::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::run(Call call, const void* work) {
  call_ = call;
  work_ = work;
  running_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
  round_.fetch_add(1);  // sequentially consistent, as sleeping_: one of the two sides sees the other
  if (sleeping_.load() > 0) {
    keep_off_this_processor();
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  call(work, 0);
  wait_for([this] { return running_.load(std::memory_order_acquire) == 0; });
}

// Linux likes to wake a thread on the processor of the one that wakes it, even where another is idle; there it
// takes the processor away from the caller until the scheduler moves one of them, some milliseconds later. (An
// answer after a pause took 12 ms instead of 9.) So sleeping threads may wake on every processor that the
// caller may use but its own.
void Workers::keep_off_this_processor() {
#if defined(__linux__)
  cpu_set_t allowed;
  const int here = sched_getcpu();
  if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  CPU_CLR(here, &allowed);
  if (CPU_COUNT(&allowed) < static_cast<int>(threads_.size())) return;  // more threads than processors
  for (std::thread& thread : threads_)
#if defined(__ANDROID__)  // has the other function since Android 16 only
    sched_setaffinity(pthread_gettid_np(thread.native_handle()), sizeof allowed, &allowed);
#else
    pthread_setaffinity_np(thread.native_handle(), sizeof allowed, &allowed);
#endif
#endif
}

void Workers::serve(int member) {
  unsigned seen = 0;
  for (;;) {
    int looks = 0;
    while (round_.load(std::memory_order_acquire) == seen && !stop_.load(std::memory_order_relaxed) &&
           ++looks < LOOKS)
      pause();
    if (round_.load(std::memory_order_acquire) == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [&] { return round_.load() != seen || stop_; });
      sleeping_.fetch_sub(1);
      if (round_.load() == seen) return;  // stopped
    }
    seen++;
    call_(work_, member);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

void Workers::meet() {
  const unsigned meeting = meeting_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == static_cast<int>(threads_.size())) {
    arrived_.store(0, std::memory_order_relaxed);
    meeting_.store(meeting + 1, std::memory_order_release);
  } else {
    wait_for([&] { return meeting_.load(std::memory_order_acquire) != meeting; });
  }
}

Team::Team(int threads)
    : size_(threads), process_(this_process()), workers_(threads > 1 ? new Workers(threads - 1) : nullptr) {}

Team::~Team() {
  if (process_ != this_process()) static_cast<void>(workers_.release());  // there is nobody to wait for
}

void Team::start(void (*call)(const void*, int), const void* work) {
  if (!workers_) return call(work, 0);
  if (process_ != this_process()) {
    static_cast<void>(workers_.release());  // its locks may be held for ever: it is left as it is
    workers_.reset(new Workers(size_ - 1));
    process_ = this_process();
  }
  workers_->run(call, work);
}

void Team::meet() {
  if (workers_) workers_->meet();
}

void Shares::deal(int64_t count, int64_t piece) {
  piece_ = piece;
  for (int member = 0; member < members_; member++) {
    next_[static_cast<size_t>(member)].place.store(share(count, member, members_), std::memory_order_relaxed);
    next_[static_cast<size_t>(member)].end = share(count, member + 1, members_);
  }
}

bool Shares::take(int member, int64_t& first, int64_t& last) {
  for (int i = 0; i < members_; i++) {
    Next& from = next_[static_cast<size_t>((member + i) % members_)];
    if (from.place.load(std::memory_order_relaxed) >= from.end) continue;  // no write to a line of others
    first = from.place.fetch_add(piece_, std::memory_order_relaxed);
    if (first >= from.end) continue;  // another member was faster
    last = std::min(first + piece_, from.end);
    return true;
  }
  return false;
}

int processor_cores() {
  const int logical = std::max(1u, std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return logical;
  std::set<std::string> cores;  // hyperthreads of one core have the same list of siblings
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    std::string siblings;
    if (!std::getline(file, siblings)) siblings = "cpu " + std::to_string(cpu);
    cores.insert(siblings);
  }
  if (!cores.empty()) return static_cast<int>(cores.size());
#endif
  return logical;
}

}  // namespace swinv2
