// Memory that a thread keeps from call to call.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define CONVSPECTRA_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(CONVSPECTRA_ASAN)
#define CONVSPECTRA_ASAN
#endif
#ifdef CONVSPECTRA_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(start, bytes) static_cast<void>(0)
#endif

namespace {

class Arena {
public:
  // A workspace, whose constructor takes its memory from this arena and does not touch it. It is constructed
  // twice: while `take` only counts, and in as much memory as that came to. It is valid until the next call.
  template <class Workspace, class... Sizes> Workspace make(const Sizes &...sizes) {
    const auto construct = [&]() __attribute__((noinline)) { return Workspace(*this, sizes...); };
    counting_ = true, used_ = 0;
    static_cast<void>(construct());
    reserve(used_);
    counting_ = false, used_ = 0;
    return construct();
  }

  template <class X> X *take(int64_t count) { return static_cast<X *>(take_bytes(count * sizeof(X))); }

private:
  [[gnu::noinline]] void *take_bytes(std::size_t bytes) {
    const std::size_t start = used_;
    used_ += (bytes + gap + alignment - 1) / alignment * alignment;
    if (counting_)
      return nullptr;
    assert(used_ <= size_);
    ASAN_UNPOISON_MEMORY_REGION(memory_.get() + start, bytes);
    return memory_.get() + start;
  }

  static constexpr std::size_t alignment = 64;
#ifdef CONVSPECTRA_ASAN
  static constexpr std::size_t gap = 64; // stays poisoned
#else
  static constexpr std::size_t gap = 0;
#endif
  struct Delete {
    void operator()(char *memory) const { ::operator delete(memory, std::align_val_t(alignment)); }
  };

  void reserve(std::size_t bytes) {
    if (bytes > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<char *>(::operator new(bytes, std::align_val_t(alignment))));
      size_ = bytes;
    }
    ASAN_POISON_MEMORY_REGION(memory_.get(), size_);
  }

  std::unique_ptr<char, Delete> memory_;
  std::size_t size_ = 0, used_ = 0;
  bool counting_ = false;
};

} // namespace
