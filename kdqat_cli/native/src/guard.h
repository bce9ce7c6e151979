// Used by every function of the C interface: turns exceptions into -1 and a message, and names into kernels.

#pragma once

#include <exception>
#include <memory>
#include <new>
#include <string>

#include "kernels.h"
#include "team.h"

namespace kdqat {

extern thread_local std::string error;

template <class F>
int guarded(F&& work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        error = "not enough memory";
    } catch (const std::exception& caught) {
        error = caught.what();
    }
    return -1;
}

const Kernels& kernels_named(const char* name);

std::unique_ptr<Team> team_of(int threads);

}  // namespace kdqat
