# The NDK's own toolchain, from where ANDROID_NDK_HOME says, with what every build of ours wants.
set(edge_mtp_ndk $ENV{ANDROID_NDK_HOME}/build/cmake/android.toolchain.cmake)
if(NOT EXISTS ${edge_mtp_ndk})
  message(FATAL_ERROR "ANDROID_NDK_HOME ('$ENV{ANDROID_NDK_HOME}') is not the folder of an Android NDK; install r27 or "
                      "newer (sdkmanager 'ndk;28.2.13676358') and name its folder")
endif()
include(${edge_mtp_ndk})
# Devices with pages of 16 KB load nothing that is aligned to less; those with pages of 4 KB do not mind.
add_link_options(-Wl,-z,max-page-size=16384 -s)
