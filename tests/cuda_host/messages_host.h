// csrc/cuda/messages.cuh for the CPU. Messages arrive at once or, in the shuffled and the depth-first order, when
// somebody waits for them: so neither premature reads nor premature sends can go unnoticed in all orders.
#pragma once

#include "block_host.h"

namespace seam::gpu {

struct Arrivals {
  int32_t missing, armed, rounds;  // bytes; whether the round is armed; rounds that are over

  void begin(int bytes) { missing = bytes, armed = 1, rounds = 0; }
  void arm(int bytes, host::Site site = host::Site::current()) {
    if (armed) host::machine.report("a round is armed twice", site, [] { return "the last one is not over"; });
    missing += bytes, armed = 1;
    settle();
  }
  void wait(int round, host::Site site = host::Site::current()) {
    if (rounds > round + 1) {
      host::machine.report("wait for a round that is long over", site, [&] { return std::to_string(round); });
    }
    host::machine.wait_until([&] { return rounds > round; }, site);
    host::machine.deliver(this, round);
  }

  void arrived(int bytes) {
    missing -= bytes;
    settle();
  }

 private:
  void settle() {
    if (armed && missing == 0) armed = 0, ++rounds;
  }
};

template <class T, int N, int M>
void send_numbers(int rank, Shared<T, N>& shared, int i, const T (&values)[M], Arrivals& arrivals,
                  const host::Site& site, const void* from = nullptr) {
  static_assert(sizeof(T) == 4);
  host::Message message = {nullptr, nullptr, 0, {}, M * sizeof(T), from};
  message.to = host::machine.place_in(rank, shared.memory, N, sizeof(T), i, M, site);
  Arrivals* const theirs =
      static_cast<Arrivals*>(host::machine.place_in(rank, &arrivals, 1, sizeof(arrivals), 0, 1, site));
  if (message.to == nullptr || theirs == nullptr) return;
  memcpy(message.bytes, values, sizeof(values));
  message.counted = theirs;
  // The round that it belongs to: a sender cannot be a round ahead of its receiver.
  message.round = theirs->rounds;
  host::machine.send(message, site);
  theirs->arrived(M * sizeof(T));
}
template <class B, class T, int N>
void send(const B&, int rank, Shared<T, N>& shared, int i, T value, Arrivals& arrivals,
          host::Site site = host::Site::current()) {
  const T one[1] = {value};
  send_numbers(rank, shared, i, one, arrivals, site);
}
template <class B, class T, int N>
void send4(const B&, int rank, Shared<T, N>& shared, int i, const T (&values)[4], Arrivals& arrivals,
           host::Site site = host::Site::current()) {
  send_numbers(rank, shared, i, values, arrivals, site);
}

// As many messages, with the values at their arrival. Whether `ready_to_send` was called is not checked.
SEAM_KERNEL void ready_to_send() {}
template <class B, class T, int N>
void send_all(const B& block, int rank, Shared<T, N>& shared, int i, int count, Arrivals& arrivals,
              host::Site site = host::Site::current()) {
  if (block.lane() != 0) return;
  for (int k = i; k < i + count; k += 4) {
    T four[4];
    shared.load4(k, four, site);
    send_numbers(rank, shared, k, four, arrivals, site, &shared.memory[k]);
  }
}

}  // namespace seam::gpu
