#include "engine/forks.hpp"

#include <pthread.h>

#include <set>

#include "engine/arena.hpp"

namespace dirprune {
namespace {

struct Programs {
    std::mutex mutex;
    std::set<Program*> all;
};

// Never destroyed: programs may outlive static objects.
Programs& programs() {
    static Programs& created = *new Programs;
    return created;
}

}  // namespace

void Program::Registry::add(Program& program) {
    static const int registered = pthread_atfork(
        [] {
            programs().mutex.lock();
            for (Program* each : programs().all) each->before_fork();
        },
        [] {
            for (Program* each : programs().all) each->after_fork(false);
            programs().mutex.unlock();
        },
        [] {
            for (Program* each : programs().all) each->after_fork(true);
            programs().mutex.unlock();
        });
    (void)registered;
    const std::lock_guard lock(programs().mutex);
    programs().all.insert(&program);
}

void Program::Registry::remove(Program& program) {
    const std::lock_guard lock(programs().mutex);
    programs().all.erase(&program);
}

void Program::before_fork() { mutex_.lock(); }

void Program::after_fork(bool in_child) {
    mutex_.unlock();
    if (!in_child) return;
    (void)making_.release();  // perhaps locked by a thread that the child does not have
    making_ = std::make_unique<std::mutex>();
}

}  // namespace dirprune
