// A fixed number of threads that run one function together, many times a millisecond.
#pragma once

#include <atomic>
#include <cstdint>
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

// Where the share of a member begins, of count things for size members.
template <class Count>
Count share(Count count, int member, int size) {
  return static_cast<Count>(static_cast<int64_t>(count) * member / size);
}

// Things that the members of a team do piece by piece. Everyone takes the pieces of its own share in turn, and then
// what others have not begun: whoever is interrupted by the system keeps nobody waiting for more than one piece.
class Shares {
 public:
  explicit Shares(int members) : members_(members), next_(new Next[static_cast<size_t>(members)]) {}

  void deal(int64_t count, int64_t piece);  // before run()

  // Inside run(): another piece, [first, last), or false where all have been taken.
  bool take(int member, int64_t& first, int64_t& last);

 private:
  struct alignas(64) Next {  // a line of the cache for each, which mostly one member alone writes
    std::atomic<int64_t> place{0};
    int64_t end = 0;
  };

  int members_;
  int64_t piece_ = 1;
  std::unique_ptr<Next[]> next_;
};

// Cores that are worth a thread each: those this process may run on, hyperthreads not counted where that is
// known.
int processor_cores();

}  // namespace swinv2
