// Streams and events: work runs when somebody waits for it.
#include "libcuda.h"

#include <algorithm>
#include <vector>

namespace stand_in {
namespace {

std::vector<Stream*>& streams() {
    static std::vector<Stream*>& all = *new std::vector<Stream*>;
    return all;
}

// A point of a stream. `recorded` counts the calls that put it there, `passed` those that were reached.
struct Event : Object {
    unsigned flags = 0;
    Stream* stream = nullptr;
    int recorded = 0;
    int passed = 0;
    const char* kind() const override { return "event"; }
};
constexpr unsigned BLOCKING_SYNC = 1, DISABLE_TIMING = 2;
constexpr unsigned NON_BLOCKING = 1;

bool meet(const Touch& a, const Touch& b) { return (a.written || b.written) && a.start < b.start + b.bytes && b.start < a.start + a.bytes; }

bool meet(const Work& a, const Work& b) {
    return std::any_of(a.touches.begin(), a.touches.end(), [&](const Touch& mine) {
        return std::any_of(b.touches.begin(), b.touches.end(), [&](const Touch& other) { return meet(mine, other); });
    });
}

// Does the next piece of work; after a failure nothing is done any more.
void step(Stream& stream) {
    const Work work = std::move(stream.queue.front());
    stream.queue.pop_front();
    if (!spoilt) work.run();
}

void finish(Stream& stream) {
    while (!stream.queue.empty()) step(stream);
}

}  // namespace

int enqueue(const Call& call, Stream& stream, Work work) {
    // Launches alone are recorded; whatever else another thread puts there would break the recording.
    if (stream.capture) {
        stream.capture->invalid = true;
        return call.refuse(CAPTURE_UNSUPPORTED, work.name + " on a stream that is captured");
    }
    for (const Stream* other : streams()) {
        if (other == &stream) continue;
        for (const Work& waiting : other->queue) {
            if (!meet(work, waiting)) continue;
            return call.refuse(INVALID_VALUE, work.name + " meets " + waiting.name + " on another stream, which was not waited for");
        }
    }
    stream.queue.push_back(std::move(work));
    if (setting("eager", 0)) finish(stream);
    return 0;
}

void finish_all() {
    for (Stream* stream : streams()) finish(*stream);
}

bool is_copied(Address host, size_t bytes) {
    const auto copies = [&](const Work& work) { return work.host < host + bytes && host < work.host + work.host_bytes; };
    return std::any_of(streams().begin(), streams().end(),
                       [&](const Stream* stream) { return std::any_of(stream->queue.begin(), stream->queue.end(), copies); });
}

bool break_captures() {
    bool broken = false;
    for (Stream* stream : streams()) {
        Capture* const capture = stream->capture;
        if (!capture) continue;
        // Relaxed captures forbid nothing, and those of one thread nothing to others.
        if (capture->mode == 2 || (capture->mode == 1 && capture->thread != std::this_thread::get_id())) continue;
        capture->invalid = broken = true;
    }
    return broken;
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

int cuStreamCreate(void** handle, unsigned flags) {
    CALL_IN_CONTEXT;
    if (flags != NON_BLOCKING) return call.refuse(INVALID_VALUE, "this stream would wait for the legacy stream");
    Stream* const stream = new Stream;
    remember(stream);
    streams().push_back(stream);
    *handle = static_cast<Object*>(stream);
    return 0;
}

int cuStreamDestroy_v2(void* handle) {
    CALL_OUTSIDE_CAPTURE;
    Stream* const stream = find<Stream>(handle);
    if (!stream) return call.refuse(INVALID_HANDLE, "there is no such stream");
    // What was put there is still done, some time later.
    finish(*stream);
    stream->live = false;
    return 0;
}

int cuStreamSynchronize(void* handle) {
    CALL_OUTSIDE_CAPTURE;
    Stream* const stream = find<Stream>(handle);
    if (!stream) return call.refuse(INVALID_HANDLE, "there is no such stream");
    if (stream->capture) {
        stream->capture->invalid = true;
        return call.refuse(CAPTURE_UNSUPPORTED, "the stream is captured");
    }
    finish(*stream);
    return spoilt;
}

int cuEventCreate(void** handle, unsigned flags) {
    CALL_OUTSIDE_CAPTURE;
    if (flags & ~(BLOCKING_SYNC | DISABLE_TIMING)) return call.refuse(INVALID_VALUE, text("flags %u", flags));
    Event* const event = new Event;
    event->flags = flags;
    remember(event);
    *handle = static_cast<Object*>(event);
    return 0;
}

int cuEventDestroy_v2(void* handle) {
    CALL_IN_CONTEXT;
    Event* const event = find<Event>(handle);
    if (!event) return call.refuse(INVALID_HANDLE, "there is no such event");
    event->live = false;
    return 0;
}

int cuEventRecord(void* handle, void* on) {
    CALL_OUTSIDE_CAPTURE;
    Event* const event = find<Event>(handle);
    Stream* const stream = find<Stream>(on);
    if (!event || !stream) return call.refuse(INVALID_HANDLE, "there is no such event or stream");
    event->stream = stream;
    const int number = ++event->recorded;
    return enqueue(call, *stream, Work{"an event", {}, [=] { event->passed = number; }});
}

int cuEventSynchronize(void* handle) {
    CALL_OUTSIDE_CAPTURE;
    Event* const event = find<Event>(handle);
    if (!event) return call.refuse(INVALID_HANDLE, "there is no such event");
    while (event->passed < event->recorded && !event->stream->queue.empty()) step(*event->stream);
    return spoilt;
}

int cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    CALL_IN_CONTEXT;
    const Event* const ends[] = {find<Event>(from), find<Event>(to)};
    for (const Event* event : ends) {
        if (!event || event->recorded == 0) return call.refuse(INVALID_HANDLE, "an event was not recorded");
        if (event->flags & DISABLE_TIMING) return call.refuse(INVALID_HANDLE, "an event was made without timing");
        if (event->passed < event->recorded) return call.refuse(NOT_READY, "an event was not waited for");
    }
    *milliseconds = 2.0f;
    return 0;
}

}  // extern "C"
