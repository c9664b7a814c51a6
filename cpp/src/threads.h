// A fixed number of threads that run one function together, many times a millisecond.
#pragma once

#include <memory>

namespace swinv2 {

class Workers;  // the threads beside the caller's

class Team {
 public:
  explicit Team(int threads);  // throws Error where the system gives no more threads
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // work(member) for every member 0 to size() - 1, the caller being 0; returns when all have returned.
  template <class Work>
  void run(const Work& work) {
    start([](const void* w, int member) { (*static_cast<const Work*>(w))(member); }, &work);
  }

  // Inside run(): returns when every member has called it.
  void meet();

 private:
  void start(void (*call)(const void*, int), const void* work);

  int size_;
  long process_;  // that has the threads: a forked one has the memory of its parent, and none of its threads
  std::unique_ptr<Workers> workers_;
};

// Cores that are worth a thread each: those this process may run on, hyperthreads not counted where that is
// known.
int processor_cores();

}  // namespace swinv2
