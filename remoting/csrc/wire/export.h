// What the Python modules use of libelara_core.so; all else stays hidden in it.
#pragma once

#define ELARA_API __attribute__((visibility("default")))
