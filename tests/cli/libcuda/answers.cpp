// What FAKE_CUDA says, the log, and which handles are known.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <mutex>
#include <set>
#include <sstream>

#include "libcuda.h"

namespace stand_in {

int spoilt = 0;

namespace {

std::recursive_mutex lock;

const std::map<std::string, std::string>& words() {
    static const std::map<std::string, std::string> all = [] {
        std::map<std::string, std::string> all;
        const char* const told = getenv("FAKE_CUDA");
        std::istringstream stream(told ? told : "");
        for (std::string word; stream >> word;) {
            const size_t end = word.find('=');
            if (end != std::string::npos) all[word.substr(0, end)] = word.substr(end + 1);
        }
        return all;
    }();
    return all;
}

std::set<Object*>& objects() {
    static std::set<Object*>& all = *new std::set<Object*>;
    return all;
}

// What the program left behind, unless a failure kept it from tidying up.
__attribute__((destructor)) void report() {
    if (spoilt) return;
    for (const Object* object : objects()) {
        // Functions go with their module.
        if (object->live && !dynamic_cast<const Function*>(object)) log(std::string("leaked: a ") + object->kind());
    }
    report_memory();
}

}  // namespace

std::string word(const std::string& name) {
    const auto found = words().find(name);
    return found == words().end() ? "" : found->second;
}

long long setting(const std::string& name, long long otherwise) {
    const std::string value = word(name);
    return value.empty() ? otherwise : atoll(value.c_str());
}

void log(const std::string& line) {
    static FILE* const file = [] {
        const char* const path = getenv("FAKE_CUDA_LOG");
        return path ? fopen(path, "a") : nullptr;
    }();
    if (!file) return;
    fprintf(file, "%s\n", line.c_str());
    fflush(file);
}

std::string text(const char* format, ...) {
    char line[512];
    va_list values;
    va_start(values, format);
    vsnprintf(line, sizeof line, format, values);
    va_end(values);
    return line;
}

Call::Call(const char* function) : function_(function) {
    static std::map<std::string, int> calls;
    lock.lock();
    log(function);
    const int number = ++calls[function];
    told_ = static_cast<int>(setting(function, setting(text("%s@%d", function, number), 0)));
}

Call::~Call() { lock.unlock(); }

int Call::refuse(Code code, const std::string& why) const {
    log(std::string("refused: ") + function_ + ": " + why);
    return code;
}

int Call::outside_capture() const { return break_captures() ? refuse(CAPTURE_UNSUPPORTED, "not while a stream is captured") : 0; }

void remember(Object* object) { objects().insert(object); }

Object* known(const void* handle) {
    Object* const object = static_cast<Object*>(const_cast<void*>(handle));
    return objects().count(object) ? object : nullptr;
}

void spoil(Code code, const std::string& why) {
    log("refused: " + why);
    if (!spoilt) spoilt = code;
}

}  // namespace stand_in
