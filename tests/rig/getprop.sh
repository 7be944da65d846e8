#!/system/bin/sh
# The phone's properties, as `getprop` and `getprop NAME` show them.
if [ -z "$1" ]; then
  sed 's/^\([^=]*\)=\(.*\)/[\1]: [\2]/' /system/build.prop
else
  sed -n "s/^$1=//p" /system/build.prop
fi
