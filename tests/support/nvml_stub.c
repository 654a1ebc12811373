/* A libnvidia-ml.so.1 that answers as nvml.h documents, for two GPUs. NVML_STUB says what is wrong with it. */
#include <stdlib.h>
#include <string.h>
#include <stdio.h>

typedef unsigned int nvmlReturn_t;
typedef struct { int index; } *nvmlDevice_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, ARGUMENT_VERSION_MISMATCH = 25 };
enum { GPUS = 2 };
#define GIB (1024ull * 1024 * 1024)

static int references, inits, samples;
static struct { int index; } devices[GPUS] = {{0}, {1}};

static int is(const char *what) {
  const char *said = getenv("NVML_STUB");
  return said && strcmp(said, what) == 0;
}

static nvmlReturn_t ready(nvmlDevice_t device) {
  if (!references) return UNINITIALIZED;
  if (!device || device->index < 0 || device->index >= GPUS) return INVALID_ARGUMENT;
  /* lost: the second GPU falls off the bus after the first sample, and is back once the library is set up anew */
  if (is("lost") && inits == 1 && device->index == 1 && samples) return GPU_IS_LOST;
  return OK;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
  if (flags) return INVALID_ARGUMENT;
  if (is("no-driver")) return DRIVER_NOT_LOADED;
  if (is("no-permission")) return NO_PERMISSION;
  references++, inits++;
  return OK;
}
nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlShutdown(void) {
  if (!references) return UNINITIALIZED;
  references--;
  return OK;
}
const char *nvmlErrorString(nvmlReturn_t code) {
  static char text[40];
  snprintf(text, sizeof text, "stub error %u", code);
  return text;
}
nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
  if (!references) return UNINITIALIZED;
  if (length < 12) return INSUFFICIENT_SIZE;
  strcpy(version, "570.133.20");
  return OK;
}
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
  if (!references) return UNINITIALIZED;
  *count = is("no-gpu") ? 0 : GPUS;
  return OK;
}
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
  if (!references) return UNINITIALIZED;
  if (index >= GPUS) return INVALID_ARGUMENT;
  *device = (nvmlDevice_t)&devices[index];
  return OK;
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
  nvmlReturn_t state = ready(device);
  if (state) return state;
  if (length < 32) return INSUFFICIENT_SIZE;
  strcpy(name, "NVIDIA Stub 80GB");
  return OK;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
  nvmlReturn_t state = ready(device);
  if (state) return state;
  memory->total = 80 * GIB, memory->used = (41 + device->index) * GIB, memory->free = memory->total - memory->used;
  return OK;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
  nvmlReturn_t state = ready(device);
  if (state) return state;
  if (is("old")) return NOT_SUPPORTED;
  if (memory->version != (sizeof(nvmlMemory_v2_t) | 2u << 24)) return ARGUMENT_VERSION_MISMATCH;
  memory->total = 80 * GIB, memory->reserved = GIB, memory->used = (40 + device->index) * GIB;
  memory->free = memory->total - memory->reserved - memory->used;
  return OK;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
  nvmlReturn_t state = ready(device);
  if (state) return state;
  if (is("old")) return NOT_SUPPORTED; /* as on a GPU in MIG mode */
  rates->gpu = 97 - device->index, rates->memory = 55;
  return OK;
}
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts) {
  nvmlReturn_t state = ready(device);
  if (state) return state;
  *milliwatts = 305500;
  return OK;
}
nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
  nvmlReturn_t state = ready(device);
  if (state) return state;
  if (is("old")) return NOT_SUPPORTED; /* before Volta */
  *millijoules = 5000000 + 1500 * (unsigned long long)device->index;
  return OK;
}
nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *milliwatts) {
  nvmlReturn_t state = ready(device);
  if (state) return state;
  if (is("old")) return NOT_SUPPORTED;
  *milliwatts = 350000;
  return OK;
}
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor, unsigned int *degrees) {
  nvmlReturn_t state = ready(device);
  if (state) return state;
  if (sensor != 0) return INVALID_ARGUMENT;
  *degrees = 66;
  return OK;
}
nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned int type, unsigned int *mhz) {
  nvmlReturn_t state = ready(device);
  if (state) return state;
  if (type == 1) *mhz = 1410;
  else if (type == 2) *mhz = 1593, samples += device->index; /* asked last: a sample is complete */
  else return INVALID_ARGUMENT;
  return OK;
}
