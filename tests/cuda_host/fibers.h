// Fibers: many stacks on one thread of the operating system, with explicit switches. A kernel's thread waits at a
// barrier by switching to another thread's stack, which takes some nanoseconds and happens in the same order in every
// run.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#if !defined(__x86_64__) || defined(SEAM_UCONTEXT)
#include <ucontext.h>
#endif

namespace seam::gpu::host {

// ---- Stacks ---------------------------------------------------------------------------------------------------------

constexpr size_t kStack = size_t(1) << 17;  // only touched pages take memory
constexpr size_t kPage = size_t(1) << 12;

// Stacks are mapped once and reused, the most recently used first.
class Stacks {
 public:
  char* take() {  // the upper end of a free stack
    if (free_.empty()) map_more();
    char* top = free_.back();
    free_.pop_back();
    return top;
  }
  void give(char* top) { free_.push_back(top); }

 private:
  void map_more() {
    constexpr size_t kCount = 64;
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, kCount * kStack, PROT_READ | PROT_WRITE, kFlags, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    for (size_t k = kCount; k-- > 0;) {
      char* low = static_cast<char*>(memory) + k * kStack;
      mprotect(low, kPage, PROT_NONE);  // a guard page: a stack overflow faults here
      // Staggered within a page: else all stacks would compete for the same few cache lines.
      free_.push_back(low + kStack - k % 64 * 9 % 64 * 64);
    }
  }

  std::vector<char*> free_;
};

// ---- Switching ------------------------------------------------------------------------------------------------------

#if defined(__x86_64__) && !defined(SEAM_UCONTEXT)

// Saves the callee-saved registers and the stack pointer, and resumes another stack that was left in the same way. In
// assembler, so that the compiler assumes nothing about memory across the call.
extern "C" void seam_switch_stack(void** from, void* to);
asm(R"(
  .pushsection .text.seam_switch_stack, "axG", @progbits, seam_switch_stack, comdat
  .weak seam_switch_stack
  .hidden seam_switch_stack
  .type seam_switch_stack, @function
seam_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size seam_switch_stack, .-seam_switch_stack
  .popsection
)");

struct Context {
  void* stack = nullptr;
};

inline void switch_context(Context& from, const Context& to) { seam_switch_stack(&from.stack, to.stack); }

// Prepares `context` to begin in `entry`, on the stack that ends at `top`. `entry` never returns.
inline void prepare(Context& context, char* top, void (*entry)()) {
  uintptr_t* words = reinterpret_cast<uintptr_t*>(top) - 8;
  for (int i = 0; i < 8; ++i) words[i] = 0;  // six registers, `entry` as the return address, and its caller
  words[6] = reinterpret_cast<uintptr_t>(entry);
  context.stack = words;
}

#else  // several times slower, because each switch is a system call for the signal mask

struct Context {
  ucontext_t state;
};

inline void switch_context(Context& from, const Context& to) { swapcontext(&from.state, &to.state); }

inline void prepare(Context& context, char* top, void (*entry)()) {
  getcontext(&context.state);
  const size_t bytes = kStack - 2 * kPage;  // less than the stack has, because `top` is not quite its end
  context.state.uc_stack.ss_sp = top - bytes;
  context.state.uc_stack.ss_size = bytes;
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
}

#endif

}  // namespace seam::gpu::host
