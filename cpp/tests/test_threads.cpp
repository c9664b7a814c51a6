// Pieces of work among the members of a team: all of them, each once, and those of a member that does not come.

#include "threads.h"

#include <atomic>
#include <string>
#include <vector>

#include "check.h"

using namespace swinv2;

namespace {

std::string of(int64_t count, int64_t piece, int members) {
  return std::to_string(count) + " things in pieces of " + std::to_string(piece) + " for " +
         std::to_string(members) + " members";
}

void test_every_thing_is_done_once() {
  for (int members : {1, 2, 3, 5}) {
    Team team(members);
    Shares shares(members);
    for (int64_t count : {0, 1, 4, 7, 64, 1000})
      for (int64_t piece : {1, 2, 3, 128}) {
        std::vector<std::atomic<int>> done(static_cast<size_t>(count));
        std::atomic<int> too_large{0};
        shares.deal(count, piece);
        team.run([&](int member) {
          for (int64_t first, last; shares.take(member, first, last);) {
            too_large += last - first > piece;
            for (int64_t i = first; i < last; i++) done[static_cast<size_t>(i)]++;
          }
        });
        int wrong = 0;
        for (const std::atomic<int>& times : done) wrong += times != 1;
        CHECK(wrong == 0, of(count, piece, members) + ": not all were done once");
        CHECK(too_large == 0, of(count, piece, members) + ": a piece is too large");
      }
  }
}

void test_everyone_begins_with_its_own_share() {
  Shares shares(2);
  shares.deal(9, 2);
  int64_t first = 0, last = 0;
  CHECK(shares.take(1, first, last) && first == 4 && last == 6);
  CHECK(shares.take(0, first, last) && first == 0 && last == 2);
}

void test_others_do_the_share_of_whoever_does_not_come() {
  Shares shares(3);
  shares.deal(10, 4);
  int64_t first = 0, last = 0, sum = 0;
  for (int pieces = 0; shares.take(1, first, last) && pieces < 10; pieces++)
    for (int64_t i = first; i < last; i++) sum += i;
  CHECK(sum == 45, "the sum of 0 to 9 is not " + std::to_string(sum));
  CHECK(!shares.take(0, first, last) && !shares.take(2, first, last), "something is left");
}

}  // namespace

int main() {
  test_every_thing_is_done_once();
  test_everyone_begins_with_its_own_share();
  test_others_do_the_share_of_whoever_does_not_come();
  return finish();
}
