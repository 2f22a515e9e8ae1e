// Captures and the graphs made of them.
#include "libcuda.h"

namespace stand_in {
namespace {

// Launches with parameters of their own; an instance is a copy of its graph.
struct Graph : Object {
    std::vector<Launch> launches;
    const char* kind() const override { return "graph"; }
};
struct Instance : Object {
    std::vector<Launch> launches;
    const char* kind() const override { return "instance of a graph"; }
};

int destroy(const Call& call, Object* graph) {
    if (!graph) return call.refuse(INVALID_HANDLE, "there is no such graph");
    graph->live = false;
    return 0;
}

}  // namespace
}  // namespace stand_in

using namespace stand_in;

extern "C" {

int cuStreamBeginCapture_v2(void* handle, int mode) {
    CALL_IN_CONTEXT;
    Stream* const stream = find<Stream>(handle);
    if (!stream) return call.refuse(INVALID_HANDLE, "there is no such stream");
    if (stream->capture) return call.refuse(INVALID_VALUE, "the stream is captured already");
    if (mode < 0 || mode > 2) return call.refuse(INVALID_VALUE, text("mode %d", mode));
    stream->capture = new Capture{std::this_thread::get_id(), mode, false, {}};
    return 0;
}

int cuStreamEndCapture(void* handle, void** graph) {
    CALL_IN_CONTEXT;
    *graph = nullptr;
    Stream* const stream = find<Stream>(handle);
    if (!stream || !stream->capture) return call.refuse(CAPTURE_UNMATCHED, "the stream is not captured");
    const Capture capture = *stream->capture;
    if (capture.mode != 2 && capture.thread != std::this_thread::get_id()) return call.refuse(CAPTURE_WRONG_THREAD, "another thread has begun it");
    delete stream->capture;
    stream->capture = nullptr;
    if (capture.invalid) return call.refuse(CAPTURE_INVALIDATED, "the capture was broken before");
    Graph* const made = new Graph;
    made->launches = capture.launches;
    remember(made);
    *graph = static_cast<Object*>(made);
    return 0;
}

int cuGraphInstantiateWithFlags(void** handle, void* graph, unsigned long long flags) {
    CALL_OUTSIDE_CAPTURE;
    const Graph* const from = find<Graph>(graph);
    if (!from) return call.refuse(INVALID_HANDLE, "there is no such graph");
    if (flags) return call.refuse(INVALID_VALUE, text("flags %llu", flags));
    Instance* const instance = new Instance;
    instance->launches = from->launches;
    remember(instance);
    *handle = static_cast<Object*>(instance);
    return 0;
}

int cuGraphDestroy(void* handle) {
    CALL_IN_CONTEXT;
    return destroy(call, find<Graph>(handle));
}

int cuGraphExecDestroy(void* handle) {
    CALL_IN_CONTEXT;
    return destroy(call, find<Instance>(handle));
}

int cuGraphUpload(void* handle, void* on) {
    CALL_OUTSIDE_CAPTURE;
    if (!find<Instance>(handle) || !find<Stream>(on)) return call.refuse(INVALID_HANDLE, "there is no such graph or stream");
    return 0;
}

int cuGraphLaunch(void* handle, void* on) {
    CALL_OUTSIDE_CAPTURE;
    const Instance* const instance = find<Instance>(handle);
    Stream* const stream = find<Stream>(on);
    if (!instance || !stream) return call.refuse(INVALID_HANDLE, "there is no such graph or stream");
    Work work{"a graph", {}, {}};
    for (const Launch& launch : instance->launches) {
        for (const Touch& touch : touches_of(launch)) work.touches.push_back(touch);
    }
    work.run = [launches = instance->launches] {
        for (const Launch& launch : launches) {
            if (!spoilt) run(launch);
        }
    };
    return enqueue(call, *stream, std::move(work));
}

}  // extern "C"
