package android.content.pm;

public class PackageManager {}
