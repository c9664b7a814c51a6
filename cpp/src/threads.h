// A fixed number of threads that run one function together, many times a millisecond.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace swinv2 {

class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // work(member) for every member 0 to size() - 1, the caller being 0; returns when all have returned.
  template <class Work>
  void run(const Work& work) {
    start([](const void* w, int member) { (*static_cast<const Work*>(w))(member); }, &work);
  }

  // Inside run(): returns when every member has called it.
  void meet();

 private:
  using Call = void (*)(const void*, int);
  void start(Call call, const void* work);
  void serve(int member);
  void keep_off_this_processor();

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  Call call_ = nullptr;
  const void* work_ = nullptr;
  std::atomic<unsigned> round_{0};  // goes up with every run()
  std::atomic<int> running_{0};     // workers that have not returned yet
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> arrived_{0};  // at meet()
  std::atomic<unsigned> meeting_{0};
};

// Cores that are worth a thread each: those this process may run on, hyperthreads not counted where that is
// known.
int processor_cores();

}  // namespace swinv2
