/* A driver library for machines without a GPU: what the real Python binding loads and asks for, with two devices.
   Device 0 answers everything, with the utilization and the computing pid that the environment names. Device 1 is one
   that is partitioned: it tells its name and memory, and refuses the rest. */
#include <stdlib.h>

enum { OK = 0, NOT_SUPPORTED = 3, NO_PERMISSION = 4, INSUFFICIENT_SIZE = 7 };
typedef struct { int index; } *Device;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute_instance; } Process;

static struct { int index; } devices[2] = {{0}, {1}};
static int number(const char *name) { return getenv(name) ? atoi(getenv(name)) : 0; }
static int text(char *into, const char *from) { while ((*into++ = *from++)); return OK; }

int nvmlInitWithFlags(unsigned flags) { return number("DOUBLE_INIT"); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "refused"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *device) { *device = (Device)&devices[index]; return OK; }
int nvmlDeviceGetName(Device device, char *name, unsigned length) { return text(name, "Double 80GB"); }
int nvmlDeviceGetUUID(Device device, char *uuid, unsigned length) {
    return text(uuid, device->index ? "GPU-1" : "GPU-0");
}
int nvmlDeviceGetUtilizationRates(Device device, Utilization *rates) {
    rates->gpu = number("DOUBLE_UTILIZATION");
    return device->index ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetMemoryInfo(Device device, Memory *memory) {
    memory->total = 80ULL << 30, memory->used = 3ULL << 30, memory->free = 77ULL << 30;
    return OK;
}
int nvmlDeviceGetPowerUsage(Device device, unsigned *milliwatts) {
    *milliwatts = 250500;
    return device->index ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long *millijoules) {
    *millijoules = 5000000000ULL;
    return device->index ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned *count, Process *processes) {
    unsigned room = *count, computing = getenv("DOUBLE_PID") != 0;
    if (device->index) return NO_PERMISSION;
    *count = computing;
    if (room < computing) return INSUFFICIENT_SIZE;
    if (computing) processes[0] = (Process){number("DOUBLE_PID"), 3ULL << 30, 0, 0};
    return OK;
}
