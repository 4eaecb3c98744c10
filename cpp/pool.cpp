#include "pool.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace dirprune::pool {

namespace {

// How long a thread polls before it sleeps: first without yielding, for about the time between two
// layers of a network, then yielding to other threads. On a virtual machine, waking a thread takes
// longer than many layers.
constexpr std::chrono::microseconds ALERT{20}, PATIENCE{500};

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

template <class Condition>
void poll(Condition met) {
    const auto begin = std::chrono::steady_clock::now();
    while (!met()) {
        const auto waited = std::chrono::steady_clock::now() - begin;
        if (waited > PATIENCE) return;
        if (waited < ALERT)
            relax();
        else
            std::this_thread::yield();
    }
}

struct alignas(64) Range {
    std::atomic<std::size_t> next;
    std::size_t end;
};

struct Job {
    Job(std::size_t parts, std::size_t seats, Body body, void* context)
        : body(body), context(context), seats(seats), ranges(new Range[seats]) {
        for (std::size_t i = 0; i < seats; ++i) {
            ranges[i].next = parts * i / seats;
            ranges[i].end = parts * (i + 1) / seats;
        }
    }

    const Body body;
    void* const context;
    const std::size_t seats;
    const std::unique_ptr<Range[]> ranges;  // of parts, one for each seat
    std::fenv_t arithmetic{};

    std::atomic<std::size_t> working{0};  // workers that have a seat and have not finished
    std::size_t taken = 1;                // seats; the first is the caller's
    std::exception_ptr error{};
    std::condition_variable finished{};

    bool open() const {
        return taken < seats && std::any_of(&ranges[0], &ranges[seats], [](const Range& range) {
                   return range.next.load(std::memory_order_relaxed) < range.end;
               });
    }
    void stop() {
        for (std::size_t i = 0; i < seats; ++i) ranges[i].next = ranges[i].end;
    }
};

class Pool {
  public:
    void run(Job& job) {
        std::fegetenv(&job.arithmetic);
        {
            std::unique_lock lock(mutex_);
            while (workers_ < job.seats - 1 && start()) ++workers_;
            jobs_.push_back(&job);
            ++announced_;
        }
        for (std::size_t i = 1; i < job.seats; ++i) wake_.notify_one();
        work(job, 0);
        poll([&] { return job.working == 0; });
        std::unique_lock lock(mutex_);
        jobs_.remove(&job);
        job.finished.wait(lock, [&] { return job.working == 0; });
        if (job.error) std::rethrow_exception(job.error);
    }

  private:
    void work(Job& job, std::size_t seat) {
        try {
            for (std::size_t i = 0; i < job.seats; ++i) {
                Range& range = job.ranges[(seat + i) % job.seats];
                for (std::size_t part; (part = range.next.fetch_add(1)) < range.end;)
                    job.body(job.context, part, seat);
            }
        } catch (...) {
            job.stop();
            std::lock_guard lock(mutex_);
            if (!job.error) job.error = std::current_exception();
        }
    }

    Job* open_job() {
        for (Job* job : jobs_)
            if (job->open()) return job;
        return nullptr;
    }

    [[noreturn]] void serve() {
        std::unique_lock lock(mutex_);
        for (;;) {
            Job* job = open_job();
            if (job == nullptr) {
                const std::size_t seen = announced_;
                lock.unlock();
                poll([&] { return announced_ != seen; });
                lock.lock();
                wake_.wait(lock, [&] { return (job = open_job()) != nullptr; });
            }
            const std::size_t seat = job->taken++;
            ++job->working;
            lock.unlock();
            std::fesetenv(&job->arithmetic);
            work(*job, seat);
            lock.lock();
            // The job lives on its caller's stack until the lock is released.
            if (--job->working == 0) job->finished.notify_one();
        }
    }

    // Signals are left to the threads of the host program.
    bool start() {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        bool started = true;
        try {
            std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {  // the system allows no further thread: fewer compute
            started = false;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return started;
    }

    std::mutex mutex_;
    std::condition_variable wake_;
    std::list<Job*> jobs_;
    std::size_t workers_ = 0;
    std::atomic<std::size_t> announced_{0};
};

std::atomic<Pool*> current{nullptr};

// The child of a fork has none of the threads and perhaps a locked mutex: it makes its own pool.
// Registered when the library is loaded, so that no fork can find it half done.
const int forgotten_in_child =
    pthread_atfork(nullptr, nullptr, [] { current = nullptr; });

// Made at its first use and never destroyed: its threads run until the process ends.
Pool& instance() {
    (void)forgotten_in_child;
    Pool* pool = current;
    if (pool == nullptr) {
        Pool* fresh = new Pool;
        if (current.compare_exchange_strong(pool, fresh)) return *fresh;
        delete fresh;
    }
    return *pool;
}

}  // namespace

void run(std::size_t parts, std::size_t threads, Body body, void* context) {
    const std::size_t seats = threads < parts ? threads : parts;
    if (seats <= 1) {
        for (std::size_t part = 0; part < parts; ++part) body(context, part, 0);
        return;
    }
    Job job(parts, seats, body, context);
    instance().run(job);
}

}  // namespace dirprune::pool
